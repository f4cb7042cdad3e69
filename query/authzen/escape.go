package authzen

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/grantlog/grantlog/ledger/tuple"
)

// escape returns an id of the standard, which is any text, as an id of grantlog. Most are
// the same. What the grammar of package tuple does not allow in an id is written as '%'
// and two upper-case hexadecimal digits for each byte:
//
//	spaces and controls, ':', '#', a '*' at the start, and a '%' that two upper-case
//	hexadecimal digits follow
//
// so that "a b" is a%20b, "50%" is 50%, and "50%20" is 50%2520. No two texts have one
// escaped form, and [unescape] reads it back. The empty text has none.
func escape(text string) string {
	var b strings.Builder
	done := 0 // up to where text is written
	for i, r := range text {
		n := utf8.RuneLen(r)
		if n < 0 || !special(text, i, r, n) {
			continue
		}
		b.WriteString(text[done:i])
		for _, c := range []byte(text[i : i+n]) {
			fmt.Fprintf(&b, "%%%02X", c)
		}
		done = i + n
	}
	if done == 0 {
		return text
	}
	b.WriteString(text[done:])
	return b.String()
}

// special reports whether the rune r at text[i:i+n] is escaped.
func special(text string, i int, r rune, n int) bool {
	switch r {
	case '%':
		_, ok := escaped(text[i:])
		return ok
	case ':', '#':
		return true
	case '*':
		return i == 0
	}
	// What else the grammar refuses in an id is its spaces and controls.
	return (r <= ' ' || r >= 0x7f) && tuple.Object{Type: "t", ID: text[i : i+n]}.Validate() != nil
}

// escaped returns the byte whose escaped form begins text, or false.
func escaped(text string) (byte, bool) {
	if len(text) < 3 || text[0] != '%' {
		return 0, false
	}
	high, low := strings.IndexByte(hexadecimal, text[1]), strings.IndexByte(hexadecimal, text[2])
	return byte(high<<4 | low), high >= 0 && low >= 0
}

const hexadecimal = "0123456789ABCDEF"

// unescape returns the text whose escaped form is id, or false for an id that is the
// escaped form of no text: it was granted in another way, and cannot be named here.
func unescape(id string) (string, bool) {
	if !strings.Contains(id, "%") {
		return id, true // ids are valid, so there is nothing to escape
	}
	var b strings.Builder
	for i := 0; i < len(id); i++ {
		if c, ok := escaped(id[i:]); ok {
			b.WriteByte(c)
			i += 2
		} else {
			b.WriteByte(id[i])
		}
	}
	text := b.String()
	return text, utf8.ValidString(text) && escape(text) == id
}
