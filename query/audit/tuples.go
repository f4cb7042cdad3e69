package audit

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/ledger/tuple"
	"github.com/grantlog/grantlog/projector/index"
)

// A FinalTuple is a tuple that is live after the last entry of a bundle: granted, not
// revoked, and not expired by the time of that entry. One that does not count yet is
// among them, and one that a newer model no longer allows.
type FinalTuple struct {
	Tuple    tuple.Tuple
	Grant    model.Grant
	Revision ledger.Revision // that granted it as it is
}

// Line returns the tuple as one line of JSON that ends with a newline, the same for the
// same tuple for ever: FORMAT.md names the fields. The SHA-256 of [Result] is over the
// lines of all final tuples in the order of [tuple.Tuple.Compare], so it is also that of
// a file of them.
func (t FinalTuple) Line() ([]byte, error) {
	line := struct {
		Object    string          `json:"object"`
		Relation  string          `json:"relation"`
		Subject   string          `json:"subject"`
		Revision  ledger.Revision `json:"revision"`
		Condition string          `json:"condition,omitempty"`
		Context   any             `json:"context,omitempty"`
		NotBefore string          `json:"not_before,omitempty"`
		ExpiresAt string          `json:"expires_at,omitempty"`
		Owner     string          `json:"owner,omitempty"`
	}{
		Object: t.Tuple.Object.String(), Relation: t.Tuple.Relation, Subject: t.Tuple.Subject.String(), Revision: t.Revision,
		Condition: t.Grant.Condition, Owner: t.Grant.Owner,
	}
	if t.Grant.Context != nil {
		context, err := model.DecodeContext(t.Grant.Context)
		if err != nil {
			return nil, fmt.Errorf("the context of %s: %w", t.Tuple, err)
		}
		line.Context = plain(context)
	}
	if t.Grant.NotBefore != 0 {
		line.NotBefore = clock(t.Grant.NotBefore)
	}
	if t.Grant.ExpiresAt != 0 {
		line.ExpiresAt = clock(t.Grant.ExpiresAt)
	}
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	err := encoder.Encode(line)
	return text.Bytes(), err
}

// plain returns v as package json writes it; fields come in the order of their names.
func plain(v model.Value) any {
	switch v.Kind {
	case model.BoolValue:
		return v.Bool
	case model.IntValue:
		return v.Int
	case model.UintValue:
		return v.Uint
	case model.DoubleValue:
		return v.Double
	case model.StringValue:
		return v.String
	case model.ListValue:
		list := make([]any, len(v.List))
		for i, item := range v.List {
			list[i] = plain(item)
		}
		return list
	case model.MapValue:
		fields := make(map[string]any, len(v.Map))
		for _, f := range v.Map {
			fields[f.Name] = plain(f.Value)
		}
		return fields
	}
	return nil
}

// finalTuples counts, hashes and hands on the final tuples in the scratch index.
func (v *verification) finalTuples(ctx context.Context, x *index.Index) error {
	view, err := x.View(v.result.Store, v.result.Last)
	if err != nil {
		return err
	}
	defer view.Close()
	view.Stop = ctx.Err
	now, err := view.Time()
	if err != nil {
		return err
	}
	hash := sha256.New()
	var failed error
	err = view.Tuples(index.ByObject(tuple.Object{}, "", nil, ""), tuple.Tuple{}, func(g index.Granted) bool {
		if g.Grant.ExpiresAt != 0 && g.Grant.ExpiresAt <= now {
			return true
		}
		t := FinalTuple(g)
		var line []byte
		if line, failed = t.Line(); failed != nil {
			return false
		}
		hash.Write(line)
		v.result.Tuples++
		if v.o.Tuple != nil {
			failed = v.o.Tuple(t)
		}
		return failed == nil
	})
	if failed != nil {
		return failed
	}
	if err != nil {
		return fmt.Errorf("read the final tuples: %w", err)
	}
	hash.Sum(v.result.TuplesHash[:0])
	return nil
}
