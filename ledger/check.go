package ledger

import "unicode/utf8"

// CheckText returns a malformed [Rejection] unless text is UTF-8 of min to max bytes
// without control characters (tabs and line breaks are allowed where max is over
// [MaxLabel]).
func CheckText(field, text string, min, max int) *Rejection {
	switch {
	case len(text) < min:
		return Reject(CodeMalformed, field, "must not be empty")
	case len(text) > max:
		return Reject(CodeMalformed, field, "must be at most %d bytes, is %d", max, len(text))
	case !utf8.ValidString(text):
		return Reject(CodeMalformed, field, "must be valid UTF-8")
	}
	for _, r := range text {
		if (r < 0x20 || r >= 0x7f && r < 0xa0) && !(max > MaxLabel && (r == '\t' || r == '\n' || r == '\r')) {
			return Reject(CodeMalformed, field, "must not hold the control character %U", r)
		}
	}
	return nil
}
