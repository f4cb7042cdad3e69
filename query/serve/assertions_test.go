package serve

import (
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"github.com/grantlog/grantlog/ledger"
	pb "github.com/grantlog/grantlog/proto/grantlog/v1"
)

// Assertions are commands like others: held to their rules with the field, decided,
// replayed, found by their kind; and refused while the rules in force do not know them.
func TestAssertions(t *testing.T) {
	n, ctx := newNode(t), context10(t)
	store := n.store(t, testModel)
	v := n.view(t, store)
	model := v.NewestModel().String()
	send := func(store, model string, assertions []byte, others ...*pb.Change) (*pb.SubmitResponse, error) {
		ch := &pb.Change{Change: &pb.Change_WriteAssertions{WriteAssertions: &pb.WriteAssertions{Model: model, Assertions: assertions}}}
		return n.Submit(ctx, &pb.SubmitRequest{Actor: "ann", Command: &pb.Command{Store: store, Changes: append(others, ch)}})
	}

	_, err := send(store, model, []byte("a"))
	wantRejection(t, err, connect.CodeFailedPrecondition, pb.Rejection_PRECONDITION, "changes[0]", "need fold version 2, and 1 is in force")
	if err := n.projector.Activate(ctx, 2, "ops", "", ""); err != nil {
		t.Fatal(err)
	}

	for i, tt := range []struct {
		assertions string
		effective  uint32
	}{{"", 0}, {"a\xff", 1}, {"a\xff", 0}, {strings.Repeat("a", ledger.MaxAssertions), 1}, {"", 1}} {
		r, err := send(store, model, []byte(tt.assertions))
		if err != nil || r.Outcome.GetKind() != pb.Outcome_APPLIED || r.Outcome.Effective != tt.effective || r.Store != store {
			t.Errorf("step %d: %v, %v, want %d effective", i+1, r, err, tt.effective)
		}
	}
	unknown := ledger.NewID().String()
	r, err := send(store, unknown, []byte("a"))
	if err != nil || r.Outcome.GetRejection().GetField() != "changes[0].model.id" || r.Outcome.GetRejection().GetCode() != pb.Rejection_NOT_FOUND {
		t.Errorf("of an unknown model: %v, %v", r, err)
	}
	for _, tt := range []struct {
		name, store, model string
		assertions         string
		others             []*pb.Change
		field, part        string
	}{
		{"without a model", store, "", "a", nil, "changes[0].model.id", "not zero"},
		{"of no id", store, "one", "a", nil, "changes[0].model.id", "one"},
		{"too long", store, model, strings.Repeat("a", ledger.MaxAssertions+1), nil, "changes[0].assertions", "at most 65536 bytes, are 65537"},
		{"in system", "system", model, "a", nil, "store", "no model of its own"},
		{"with a grant", store, model, "a", []*pb.Change{grant("doc:a", "viewer", "user:ann")}, "changes[1]", "alone in its command"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := send(tt.store, tt.model, []byte(tt.assertions), tt.others...)
			wantRejection(t, err, connect.CodeInvalidArgument, pb.Rejection_MALFORMED, tt.field, tt.part)
		})
	}

	stream, err := n.Replay(ctx, &pb.ReplayRequest{Store: store, Filter: &pb.EntryFilter{Kinds: []pb.EntryFilter_Kind{pb.EntryFilter_WRITE_ASSERTIONS}}})
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	var sizes []int
	for stream.Receive() {
		for _, e := range stream.Msg().Entries {
			k := e.Command.Changes[0].GetWriteAssertions()
			if k == nil || k.Model != model && k.Model != unknown || len(e.Command.Changes) != 1 {
				t.Fatalf("the filter lets %v through", e)
			}
			sizes = append(sizes, len(k.Assertions))
		}
	}
	if err := stream.Err(); err != nil {
		t.Fatal(err)
	}
	if want := []int{0, 2, 2, ledger.MaxAssertions, 0, 1}; !slices.Equal(sizes, want) {
		t.Errorf("replayed assertions of %d bytes, want %d", sizes, want)
	}
}
