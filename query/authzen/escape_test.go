package authzen

import (
	"testing"
	"unicode/utf8"

	"github.com/grantlog/grantlog/ledger/tuple"
)

func TestEscape(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"alice", "alice"},
		{"alice@example.com", "alice@example.com"},
		{"a/b?c=d&e", "a/b?c=d&e"},
		{"été/日本", "été/日本"},
		{"alice smith", "alice%20smith"},
		{"urn:example:1", "urn%3Aexample%3A1"},
		{"eng#member", "eng%23member"},
		{"*", "%2A"},
		{"*.go", "%2A.go"},
		{"a*", "a*"},
		{"50%", "50%"},
		{"50% off", "50%%20off"},
		{"%20", "%2520"},
		{"%2f", "%2f"},
		{"%2F", "%252F"},
		{"%2:", "%2%3A"},
		{"%%20", "%%2520"},
		{"a\x00\tb", "a%00%09b"},
		{"a\u00a0\u2028b", "a%C2%A0%E2%80%A8b"},
	} {
		got := escape(tt.text)
		if got != tt.want {
			t.Errorf("escape(%q) = %q, want %q", tt.text, got, tt.want)
		}
		if back, ok := unescape(got); back != tt.text || !ok {
			t.Errorf("unescape(%q) = %q, %t, want %q", got, back, ok, tt.text)
		}
	}
	// What was granted in another way under an id that no text has must not pass for another.
	for _, id := range []string{"%41", "a%25b", "%252a", "x%2A", "%C3%A9", "%FF", "%C2"} {
		if text, ok := unescape(id); ok {
			t.Errorf("unescape(%q) = %q, want none: the id of that text is %q", id, text, escape(text))
		}
	}
}

// FuzzEscape: every text becomes a valid id, and comes back from it; every valid id that
// has a text comes back from that, so no two have one.
func FuzzEscape(f *testing.F) {
	for _, seed := range []string{"a", "%20", "%%20 :", "*", "50%", "%2", "\u2028", "%25%3A", "%C2%A0"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if text == "" || !utf8.ValidString(text) {
			return
		}
		id := escape(text)
		if err := (tuple.Object{Type: "t", ID: id}).Validate(); err != nil && len(id) <= tuple.MaxID {
			t.Fatalf("escape(%q) = %q: %v", text, id, err)
		}
		if back, ok := unescape(id); back != text || !ok {
			t.Fatalf("escape(%q) = %q, which is read as %q, %t", text, id, back, ok)
		}
		if (tuple.Object{Type: "t", ID: text}).Validate() != nil {
			return
		}
		if other, ok := unescape(text); ok && escape(other) != text {
			t.Fatalf("the id %q is read as %q, whose id is %q", text, other, escape(other))
		}
	})
}
