package serve

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/grantlog/grantlog/ledger"
	pb "github.com/grantlog/grantlog/proto/grantlog/v1"
)

func TestStores(t *testing.T) {
	n := newNode(t)
	ctx := context10(t)
	id := ledger.NewUUID().String()
	create := &pb.CreateStoreRequest{Name: "first", Actor: "ann", Reason: "a start", Id: id}
	first, err := n.CreateStore(ctx, create)
	if err != nil {
		t.Fatal(err)
	}
	if s := first.Store; s.Name != "first" || s.Admin != "ann" || s.Status != pb.Store_LIVE || s.Revision != 1 || s.Created == nil || first.Id != id {
		t.Errorf("create = %v, want a live store at revision 1", first)
	}
	again, err := n.CreateStore(ctx, create)
	if err != nil || again.Store.GetId() != first.Store.Id {
		t.Errorf("create again under the same id = %v, %v, want the same store", again, err)
	}
	_, err = n.CreateStore(ctx, &pb.CreateStoreRequest{Name: "other", Actor: "ann", Id: id})
	wantRejection(t, err, connect.CodeAlreadyExists, pb.Rejection_CONFLICT, "id", "")
	_, err = n.CreateStore(ctx, &pb.CreateStoreRequest{})
	wantRejection(t, err, connect.CodeInvalidArgument, pb.Rejection_MALFORMED, "name", "empty")
	_, err = n.CreateStore(ctx, &pb.CreateStoreRequest{Name: "a", Id: "a"})
	wantRejection(t, err, connect.CodeInvalidArgument, pb.Rejection_MALFORMED, "id", "UUID")

	ids := []string{first.Store.Id}
	for range 5 {
		s, err := n.CreateStore(ctx, &pb.CreateStoreRequest{Name: "more", Admin: "bob"})
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, s.Store.Id)
	}
	slices.Sort(ids)
	gone := ids[2]
	deleted, err := n.DeleteStore(ctx, &pb.DeleteStoreRequest{Store: gone, Actor: "bob"})
	if err != nil || deleted.Revision == 0 || deleted.Token == "" {
		t.Fatalf("delete = %v, %v", deleted, err)
	}
	_, err = n.DeleteStore(ctx, &pb.DeleteStoreRequest{Store: gone})
	wantRejection(t, err, connect.CodeNotFound, pb.Rejection_NOT_FOUND, "store", "")
	_, err = n.DeleteStore(ctx, &pb.DeleteStoreRequest{Store: ledger.NewID().String()})
	wantRejection(t, err, connect.CodeNotFound, pb.Rejection_NOT_FOUND, "store", "")
	_, err = n.DeleteStore(ctx, &pb.DeleteStoreRequest{Store: "system"})
	wantRejection(t, err, connect.CodeInvalidArgument, pb.Rejection_MALFORMED, "store", "system")

	live := slices.DeleteFunc(slices.Clone(ids), func(id string) bool { return id == gone })
	for _, tt := range []struct {
		name    string
		size    uint32
		deleted bool
		want    []string
		pages   int
	}{
		{"one page", 0, false, live, 1},
		{"exactly one page", 5, false, live, 1},
		{"small pages", 2, false, live, 3},
		{"deleted too", 4, true, ids, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			pages, token := 0, ""
			for pages == 0 || token != "" {
				page, err := n.ListStores(ctx, &pb.ListStoresRequest{PageSize: tt.size, PageToken: token, Deleted: tt.deleted})
				if err != nil {
					t.Fatal(err)
				}
				for _, s := range page.Stores {
					got = append(got, s.Id)
					if wantStatus := map[bool]pb.Store_Status{true: pb.Store_DELETED, false: pb.Store_LIVE}[s.Id == gone]; s.Status != wantStatus {
						t.Errorf("store %s is %s, want %s", s.Id, s.Status, wantStatus)
					}
				}
				token = page.NextPageToken
				if pages++; pages > 10 {
					t.Fatal("the pages do not end")
				}
			}
			if !slices.Equal(got, tt.want) || pages != tt.pages {
				t.Errorf("stores = %q in %d pages, want %q in %d", got, pages, tt.want, tt.pages)
			}
		})
	}
	_, err = n.ListStores(ctx, &pb.ListStoresRequest{PageSize: 1001})
	wantRejection(t, err, connect.CodeInvalidArgument, pb.Rejection_MALFORMED, "page_size", "1000")
	_, err = n.ListStores(ctx, &pb.ListStoresRequest{PageToken: "2"})
	wantRejection(t, err, connect.CodeInvalidArgument, pb.Rejection_MALFORMED, "page_token", "ListStores")
}

func TestModels(t *testing.T) {
	n := newNode(t)
	ctx := context10(t)
	store := n.store(t, "")
	_, err := n.ReadModel(ctx, &pb.ReadModelRequest{Store: store})
	wantRejection(t, err, connect.CodeNotFound, pb.Rejection_NOT_FOUND, "model", "no model yet")
	write := &pb.SubmitRequest{Actor: "ann", Command: &pb.Command{Id: ledger.NewUUID().String(), Store: store,
		Changes: []*pb.Change{{Change: &pb.Change_WriteModel{WriteModel: &pb.ModelSource{Source: testModel}}}}}}
	first, err := n.Submit(ctx, write)
	if err != nil || first.Model == "" {
		t.Fatalf("write a model = %v, %v, want its id", first, err)
	}
	// A retry is the same command, though the server makes the model's id.
	again, err := n.Submit(ctx, write)
	if err != nil || again.Outcome.GetKind() != pb.Outcome_DUPLICATE || again.Model != first.Model {
		t.Errorf("write again under the same id = %v, %v, want a duplicate with model %s", again, err, first.Model)
	}
	own := ledger.NewID().String()
	n.apply(t, store, &pb.Change{Change: &pb.Change_WriteModel{WriteModel: &pb.ModelSource{Id: own, Kind: pb.ModelSource_DSL, Source: strings.Replace(testModel, "type user\n", "type user\ntype more\n", 1)}}})

	newest, err := n.ReadModel(ctx, &pb.ReadModelRequest{Store: store})
	if err != nil || newest.Model.GetId() != own || newest.Model.Source.Kind != pb.ModelSource_DSL || newest.Model.Time == nil {
		t.Errorf("newest model = %v, %v, want %s", newest, err, own)
	}
	older, err := n.ReadModel(ctx, &pb.ReadModelRequest{Store: store, Model: first.Model})
	if err != nil || older.Model.GetSource().GetSource() != testModel || older.Model.Revision != first.Revision {
		t.Errorf("model %s = %v, %v, want what was written first", first.Model, older, err)
	}
	_, err = n.ReadModel(ctx, &pb.ReadModelRequest{Store: store, Model: ledger.NewID().String()})
	wantRejection(t, err, connect.CodeNotFound, pb.Rejection_NOT_FOUND, "model", "not found")
	_, err = n.ReadModel(ctx, &pb.ReadModelRequest{Store: store, Freshness: atRevision(1)})
	wantRejection(t, err, connect.CodeNotFound, pb.Rejection_NOT_FOUND, "model", "the store had no model at revision 1; its first came at revision 2")

	page, err := n.ListModels(ctx, &pb.ListModelsRequest{Store: store, PageSize: 1})
	if err != nil || len(page.Models) != 1 || page.Models[0].Id != own || page.NextPageToken == "" {
		t.Fatalf("first page = %v, %v, want the newest model and a page token", page, err)
	}
	page, err = n.ListModels(ctx, &pb.ListModelsRequest{Store: store, PageSize: 1, PageToken: page.NextPageToken})
	if err != nil || len(page.Models) != 1 || page.Models[0].Id != first.Model || page.NextPageToken != "" {
		t.Errorf("last page = %v, %v, want the first model alone", page, err)
	}
	_, err = n.ListModels(ctx, &pb.ListModelsRequest{Store: store, PageToken: "x"})
	wantRejection(t, err, connect.CodeInvalidArgument, pb.Rejection_MALFORMED, "page_token", "ListModels")
}

// replayed reads a stream to its end.
func replayed(t *testing.T, n *node, req *pb.ReplayRequest) (answers []*pb.ReplayResponse, entries []*pb.Entry) {
	t.Helper()
	stream, err := n.Replay(context10(t), req)
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	for stream.Receive() {
		answers = append(answers, stream.Msg())
		entries = append(entries, stream.Msg().Entries...)
	}
	if err := stream.Err(); err != nil {
		t.Fatalf("replay: %v", err)
	}
	return answers, entries
}

func TestReplay(t *testing.T) {
	n := newNode(t)
	store := n.store(t, testModel)
	const more = 250 // over two answers
	for range more {
		if _, err := n.Submit(context10(t), &pb.SubmitRequest{Wait: pb.SubmitRequest_APPENDED, Command: &pb.Command{Store: store, Ticket: "T-1",
			Changes: []*pb.Change{grant("doc:plan", "viewer", "user:ann")}}}); err != nil {
			t.Fatal(err)
		}
	}
	rejected, err := n.Submit(context10(t), &pb.SubmitRequest{Command: &pb.Command{Store: store, Changes: []*pb.Change{grant("doc:plan", "admin", "user:ann")}}})
	if err != nil {
		t.Fatal(err)
	}
	all, entries := replayed(t, n, &pb.ReplayRequest{Store: store, Raw: true})
	if len(entries) != 2+more+1 || len(all) < 3 {
		t.Fatalf("replay = %d entries in %d answers, want %d in 3 or more", len(entries), len(all), 2+more+1)
	}
	for i, e := range entries {
		if e.Revision != uint64(i)+1 || e.Command == nil || len(e.Raw) == 0 || e.Store != store || e.FoldVersion != 1 || e.Method != pb.Entry_NONE || len(e.Prev) != 32 {
			t.Fatalf("entry %d = %v", i, e)
		}
	}
	for i, a := range all {
		if last := i == len(all)-1; a.CaughtUp != last {
			t.Errorf("answer %d of %d: caught up = %t", i, len(all), a.CaughtUp)
		}
	}
	if e := entries[0]; e.Command.Changes[0].GetCreateStore().GetStore() != store || e.Actor != "ann" {
		t.Errorf("the first entry = %v, want the store's creation by ann", e)
	}
	if e := entries[1]; e.Command.Changes[0].GetWriteModel().GetSource() != testModel {
		t.Errorf("the second entry = %v, want the model", e)
	}
	if e := entries[2]; e.Actor != Anonymous || e.Command.Ticket != "T-1" || e.Command.Changes[0].GetGrant().GetTuple().GetSubject() != "user:ann" {
		t.Errorf("the third entry = %v, want the grant by anonymous", e)
	}
	if e := entries[len(entries)-1]; e.Revision != rejected.Revision || e.Outcome.GetRejection().GetCode() != pb.Rejection_NOT_FOUND {
		t.Errorf("the last entry = %v, want the rejected command", e)
	}
	if all[len(all)-1].ResumeToken != rejected.Token {
		t.Errorf("the last resume token is not the token of revision %d", rejected.Revision)
	}

	_, rest := replayed(t, n, &pb.ReplayRequest{Store: store, Start: &pb.ReplayRequest_ResumeToken{ResumeToken: all[0].ResumeToken}})
	if len(rest) != len(entries)-len(all[0].Entries) || rest[0].Revision != entries[len(all[0].Entries)].Revision || rest[0].Raw != nil {
		t.Errorf("resumed after the first answer: %d entries from %d", len(rest), rest[0].Revision)
	}
	_, one := replayed(t, n, &pb.ReplayRequest{Store: store, Start: &pb.ReplayRequest_From{From: rejected.Revision}})
	if len(one) != 1 || one[0].Revision != rejected.Revision {
		t.Errorf("from the last revision: %v, want it alone", one)
	}
	beyond, err := n.Replay(context10(t), &pb.ReplayRequest{Store: store, Follow: true, Start: &pb.ReplayRequest_From{From: rejected.Revision + 5}})
	if err != nil {
		t.Fatal(err)
	}
	if !beyond.Receive() || len(beyond.Msg().Entries) != 0 || !beyond.Msg().CaughtUp || beyond.Msg().ResumeToken != "" {
		t.Errorf("following from beyond the end: %v, want only to be caught up", beyond.Msg())
	}
	beyond.Close()

	// What is no command for a live store is an entry of the store "system".
	n.log.Put(ledger.Subject("main", ledger.PrincipalSubject, "tool"), []byte("\xffno command"))
	if _, err := n.DeleteStore(context10(t), &pb.DeleteStoreRequest{Store: store}); err != nil {
		t.Fatal(err)
	}
	_, system := replayed(t, n, &pb.ReplayRequest{Store: "system"})
	if e := system[1]; e.Command != nil || string(e.Raw) != "\xffno command" || e.Attester != "grantlog.main.cmd.tool" || e.Outcome.GetRejection().GetCode() != pb.Rejection_MALFORMED {
		t.Errorf("the second entry of system = %v, want the bytes that are no command", e)
	}
	if _, after := replayed(t, n, &pb.ReplayRequest{Store: store}); len(after) != len(entries)+1 {
		t.Errorf("the deleted store has %d entries, want %d", len(after), len(entries)+1)
	}

	for _, tt := range []struct {
		name  string
		req   *pb.ReplayRequest
		code  connect.Code
		why   pb.Rejection_Code
		field string
	}{
		{"no store", &pb.ReplayRequest{}, connect.CodeInvalidArgument, pb.Rejection_MALFORMED, "store"},
		{"unknown store", &pb.ReplayRequest{Store: ledger.NewID().String()}, connect.CodeNotFound, pb.Rejection_NOT_FOUND, "store"},
		{"from 0", &pb.ReplayRequest{Store: store, Start: &pb.ReplayRequest_From{}}, connect.CodeInvalidArgument, pb.Rejection_MALFORMED, "from"},
		{"resume token", &pb.ReplayRequest{Store: store, Start: &pb.ReplayRequest_ResumeToken{ResumeToken: "1"}}, connect.CodeInvalidArgument, pb.Rejection_MALFORMED, "resume_token"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			stream, err := n.Replay(context10(t), tt.req)
			if err != nil {
				t.Fatal(err)
			}
			defer stream.Close()
			if stream.Receive() {
				t.Errorf("replay answered %v", stream.Msg())
			}
			wantRejection(t, stream.Err(), tt.code, tt.why, tt.field, "")
		})
	}
}

func TestFollow(t *testing.T) {
	n := newNode(t)
	store := n.store(t, testModel)
	ctx, cancel := context.WithCancel(context10(t))
	defer cancel()
	stream, err := n.Replay(ctx, &pb.ReplayRequest{Store: store, Follow: true, Start: &pb.ReplayRequest_From{From: 2}})
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	next := func() *pb.ReplayResponse {
		t.Helper()
		if !stream.Receive() {
			t.Fatalf("the stream ended: %v", stream.Err())
		}
		return stream.Msg()
	}
	if m := next(); !m.CaughtUp || len(m.Entries) != 1 || m.Entries[0].Revision != 2 {
		t.Errorf("first = %v, want revision 2, caught up", m)
	}
	for rev := uint64(3); rev < 6; rev++ {
		n.apply(t, store, grant("doc:plan", "viewer", "user:ann"))
		if m := next(); m.CaughtUp || len(m.Entries) != 1 || m.Entries[0].Revision != rev {
			t.Errorf("then = %v, want revision %d", m, rev)
		}
	}
	time.AfterFunc(20*time.Millisecond, cancel)
	if stream.Receive() || connect.CodeOf(stream.Err()) != connect.CodeCanceled {
		t.Errorf("after the caller left: %v, want canceled", stream.Err())
	}
}
