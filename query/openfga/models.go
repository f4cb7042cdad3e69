package openfga

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/dsl"
	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/projector"
	"github.com/grantlog/grantlog/projector/index"
	openfgav1 "github.com/openfga/api/proto/openfga/v1"
	"google.golang.org/protobuf/encoding/protojson"
)

// WriteAuthorizationModel writes a model, which is the newest from then on. An error names
// every mistake of the model, each in its own line.
func (s *Service) WriteAuthorizationModel(ctx context.Context, req *openfgav1.WriteAuthorizationModelRequest) (*openfgav1.WriteAuthorizationModelResponse, error) {
	store, err := s.liveStore(ctx, req.GetStoreId())
	if err != nil {
		return nil, err
	}
	if n, most := len(req.GetTypeDefinitions()), cmp.Or(s.cfg.Models.Types, dsl.DefaultTypes); n > most {
		return nil, errorf(openfgav1.ErrorCode_exceeded_entity_limit, "type_definitions: a model must define at most %d types, this defines %d", most, n)
	}
	m := &openfgav1.AuthorizationModel{SchemaVersion: req.GetSchemaVersion(), TypeDefinitions: req.GetTypeDefinitions(), Conditions: req.GetConditions()}
	text, err := protojson.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("write the model: %w", err)
	}
	var source bytes.Buffer // without the spaces that the library varies on purpose
	if err := json.Compact(&source, text); err != nil {
		return nil, fmt.Errorf("write the model: %w", err)
	}
	if n := source.Len(); n > ledger.MaxModelSource {
		return nil, errorf(openfgav1.ErrorCode_exceeded_entity_limit, "the model must be at most %d bytes of JSON, is %d", ledger.MaxModelSource, n)
	}
	compiled, err := dsl.Compile(ledger.SourceJSON, source.Bytes(), s.cfg.Models)
	var mistakes *dsl.Errors
	if errors.As(err, &mistakes) {
		return nil, modelError(*mistakes)
	}
	if err != nil {
		return nil, err
	}
	err = s.submit(ctx, &ledger.Command{Store: store, Changes: []ledger.Change{{Kind: ledger.WriteModel, Model: compiled}}})
	if err != nil {
		return nil, storeGone(err)
	}
	return &openfgav1.WriteAuthorizationModelResponse{AuthorizationModelId: compiled.ID.String()}, nil
}

// modelError is the error of a model with mistakes. They say by names what they are in;
// their places are those of a text that the caller never saw, so they are left out.
func modelError(mistakes dsl.Errors) *Error {
	var b bytes.Buffer
	for i, m := range mistakes {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(m.Message)
	}
	return errorf(openfgav1.ErrorCode_invalid_authorization_model, "%s", b.String())
}

// ReadAuthorizationModel returns a model, whatever it was written in.
func (s *Service) ReadAuthorizationModel(ctx context.Context, req *openfgav1.ReadAuthorizationModelRequest) (*openfgav1.ReadAuthorizationModelResponse, error) {
	v, err := s.view(ctx, req.GetStoreId(), projector.Freshness{})
	if err != nil {
		return nil, err
	}
	defer v.Close()
	id, err := ledger.ParseID(req.GetId())
	if err != nil || id.IsZero() {
		return nil, noModel(req.GetId())
	}
	m, err := modelMessage(v, id)
	if err != nil {
		return nil, err
	}
	if m == nil {
		return nil, noModel(req.GetId())
	}
	return &openfgav1.ReadAuthorizationModelResponse{AuthorizationModel: m}, nil
}

// modelMessage returns a model of the view's store; nil if there is none of that id. One
// that was written as JSON is as it was written: its compiled form has no place for the
// files that its parts come from, and makes one rule of a union of one.
func modelMessage(v *index.View, id ledger.ID) (*openfgav1.AuthorizationModel, error) {
	source, _, err := v.ModelSource(id)
	if errors.Is(err, ledger.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	message := asWritten(source.Kind, source.Source)
	if message == nil {
		m, err := v.Model(id)
		if err != nil {
			return nil, err
		}
		message = &openfgav1.AuthorizationModel{}
		if err := protojson.Unmarshal(dsl.ToJSON(m), message); err != nil {
			return nil, fmt.Errorf("model %s: %w", id, err)
		}
	}
	message.Id = id.String()
	return message, nil
}

// asWritten returns the model of a source as it was written, nil of one that is not JSON,
// or not that of the API: package dsl reads a little more, such as null for a relation and
// other letters in the name of a parameter's type.
func asWritten(kind ledger.SourceKind, source []byte) *openfgav1.AuthorizationModel {
	message := &openfgav1.AuthorizationModel{}
	if kind != ledger.SourceJSON || protojson.Unmarshal(source, message) != nil {
		return nil
	}
	for name, c := range message.Conditions {
		c.Name = name // which a source need not repeat
	}
	return message
}

// ModelJSON returns the model of a source, of which m is the compiled form, as JSON that
// the API takes, indented: with all that it has where it was written as JSON.
func ModelJSON(kind ledger.SourceKind, source []byte, m *model.Model) ([]byte, error) {
	message := asWritten(kind, source)
	if message == nil {
		return dsl.ToJSON(m), nil
	}
	message.Id = "" // which the store gives
	text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(message)
	if err != nil {
		return nil, err
	}
	var indented bytes.Buffer // protojson's own spaces change from build to build
	err = json.Indent(&indented, text, "", "  ")
	return append(indented.Bytes(), '\n'), err
}

// ReadAuthorizationModels lists the models of a store, the newest first.
func (s *Service) ReadAuthorizationModels(ctx context.Context, req *openfgav1.ReadAuthorizationModelsRequest) (*openfgav1.ReadAuthorizationModelsResponse, error) {
	v, err := s.view(ctx, req.GetStoreId(), projector.Freshness{})
	if err != nil {
		return nil, err
	}
	defer v.Close()
	where := s.place("models", req.GetStoreId())
	after, err := where.read(req.GetContinuationToken())
	if err != nil {
		return nil, err
	}
	var before uint64 // the revision of the last model of the pages before
	if after != "" {
		if before, err = strconv.ParseUint(after, 10, 64); err != nil {
			return nil, errToken
		}
	}
	size := pageSize(req.GetPageSize())
	answer := &openfgav1.ReadAuthorizationModelsResponse{}
	models := v.Models()
	var last ledger.Revision
	for i := len(models) - 1; i >= 0; i-- {
		if before != 0 && uint64(models[i].Revision) >= before {
			continue
		}
		if len(answer.AuthorizationModels) == size {
			answer.ContinuationToken = where.token(strconv.FormatUint(uint64(last), 10))
			break
		}
		m, err := modelMessage(v, models[i].ID)
		if err != nil {
			return nil, err
		}
		last = models[i].Revision
		answer.AuthorizationModels = append(answer.AuthorizationModels, m)
	}
	return answer, nil
}
