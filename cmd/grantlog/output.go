package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	pb "github.com/grantlog/grantlog/proto/grantlog/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// json reports whether answers are printed as JSON.
func (a *app) json() bool { return a.output == "json" }

// message prints m as one line of JSON, with the fields that are empty.
func (a *app) message(m proto.Message) error {
	text, err := compactJSON(m)
	if err == nil {
		_, err = io.WriteString(a.stdout, text+"\n")
	}
	return err
}

// compactJSON returns m as JSON without spaces, with the fields that are empty.
func compactJSON(m proto.Message) (string, error) {
	b, err := protojson.MarshalOptions{EmitDefaultValues: true}.Marshal(m)
	if err != nil {
		return "", err
	}
	var line bytes.Buffer
	err = json.Compact(&line, b) // protojson varies its spaces on purpose
	return line.String(), err
}

// value prints v as one line of JSON.
func (a *app) value(v any) error { return json.NewEncoder(a.stdout).Encode(v) }

// facts prints a headline and, indented, names with their values in pairs; pairs with
// an empty value are left out.
func (a *app) facts(headline string, pairs ...string) error {
	var b strings.Builder
	b.WriteString(headline + "\n")
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			fmt.Fprintf(w, "  %s\t%s\n", pairs[i], pairs[i+1])
		}
	}
	w.Flush() // into memory
	_, err := a.stdout.Write([]byte(b.String()))
	return err
}

// rows prints a table with a header line.
func (a *app) rows(header []string, rows [][]string) error {
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, strings.Join(header, "\t"))
	for _, r := range rows {
		fmt.Fprintln(w, strings.Join(r, "\t"))
	}
	return w.Flush()
}

// clock prints a moment to the second in UTC, "" for none.
func clock(t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	return t.AsTime().UTC().Format(time.RFC3339)
}

// exactly prints a moment in UTC as --at takes it, in the digits that JSON has: none, or
// 3, 6 or 9 of the second.
func exactly(t *timestamppb.Timestamp) string {
	text := t.AsTime().Format("2006-01-02T15:04:05.000000000")
	for range 3 {
		text = strings.TrimSuffix(text, "000")
	}
	return strings.TrimSuffix(text, ".") + "Z"
}

// oneLine makes text fit one line of a table: what would break it, or turn its direction,
// is shown as a space.
func oneLine(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.In(r, unicode.Zl, unicode.Zp, unicode.Bidi_Control) {
			return ' '
		}
		return r
	}, text)
}

// said is the tuple as the command line says it.
func said(t *pb.Tuple) string {
	return t.GetSubject() + " " + t.GetRelation() + " " + t.GetObject()
}

// describeChange says what a change does, on one line.
func describeChange(c *pb.Change) string {
	switch k := c.GetChange().(type) {
	case *pb.Change_Grant:
		text := "grant " + said(k.Grant.GetTuple())
		if d := k.Grant.GetExpiresAfter(); d != nil {
			text += " for " + d.AsDuration().String()
		}
		if t := k.Grant.GetExpiresAt(); t != nil {
			text += " until " + clock(t)
		}
		if t := k.Grant.GetNotBefore(); t != nil {
			text += " from " + clock(t)
		}
		if k.Grant.GetCondition() != "" {
			text += " if " + k.Grant.GetCondition()
		}
		return text
	case *pb.Change_Revoke:
		return "revoke " + said(k.Revoke.GetTuple())
	case *pb.Change_WriteModel:
		return "write model " + k.WriteModel.GetId()
	case *pb.Change_CreateStore:
		return fmt.Sprintf("create store %s %q", k.CreateStore.GetStore(), k.CreateStore.GetName())
	case *pb.Change_DeleteStore:
		return "delete store " + k.DeleteStore.GetStore()
	case *pb.Change_AdvanceEpoch:
		return fmt.Sprintf("advance to epoch %d", k.AdvanceEpoch.GetNumber())
	case *pb.Change_Activate:
		return fmt.Sprintf("activate fold version %d", k.Activate.GetVersion())
	case *pb.Change_BeginRestore:
		return "begin to restore store " + k.BeginRestore.GetStore()
	case *pb.Change_EndRestore:
		if k.EndRestore.GetDeleted() {
			return "end restoring store " + k.EndRestore.GetStore() + ", which is deleted"
		}
		return "end restoring store " + k.EndRestore.GetStore()
	case *pb.Change_WriteAssertions:
		return fmt.Sprintf("write assertions of model %s (%d bytes)", k.WriteAssertions.GetModel(), len(k.WriteAssertions.GetAssertions()))
	}
	return "a change that this program does not know"
}

// describeCommand says what a command does: its first change, and how many follow.
func describeCommand(c *pb.Command) string {
	if c == nil {
		return "(bytes that are no command)"
	}
	changes := c.GetChanges()
	if len(changes) == 0 {
		return "(nothing)"
	}
	text := describeChange(changes[0])
	if more := len(changes) - 1; more > 0 {
		text += fmt.Sprintf(" (and %d more)", more)
	}
	return oneLine(text)
}

// kindOf is the outcome's kind in lower case.
func kindOf(o *pb.Outcome) string { return strings.ToLower(o.GetKind().String()) }

// rejectionText says why a command was rejected.
func rejectionText(r *pb.Rejection) string {
	text := r.GetMessage()
	if r.GetField() != "" {
		text = r.GetField() + ": " + text
	}
	return fmt.Sprintf("%s (%s)", text, strings.ToLower(r.GetCode().String()))
}

// count returns "1 thing" or "n things".
func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
