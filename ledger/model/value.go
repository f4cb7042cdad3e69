package model

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/grantlog/grantlog/ledger/wire"
)

// A ValueKind is the kind of a [Value].
type ValueKind byte

// The kinds of value. Their numbers are part of the encoding.
const (
	NullValue ValueKind = iota
	BoolValue
	IntValue
	UintValue // only for integers above the range of IntValue
	DoubleValue
	StringValue
	ListValue
	MapValue
)

// A Value is one JSON value: what a condition's context is made of, and what a
// command in JSON is read into. The zero Value is null.
type Value struct {
	Kind   ValueKind
	Bool   bool
	Int    int64
	Uint   uint64
	Double float64 // never NaN or infinite
	String string
	List   []Value
	Map    []Field // sorted by name, names unique
}

// A Field is a named value of a map.
type Field struct {
	Name  string
	Value Value
}

// Limits of values.
const (
	MaxValueDepth = 16        // lists and maps within each other
	MaxValues     = 1 << 16   // values in one JSON text, those in lists and maps among them
	MaxContext    = 64 << 10  // bytes of an encoded context stored with a grant
	maxValueBytes = 1 << 20   // bytes of one text
	maxValueItems = 1_000_000 // items of one list or map
)

// Field returns the named field of a map value, or false.
func (v Value) Field(name string) (Value, bool) {
	i, ok := slices.BinarySearchFunc(v.Map, name, func(f Field, name string) int { return strings.Compare(f.Name, name) })
	if !ok {
		return Value{}, false
	}
	return v.Map[i].Value, true
}

// AppendValue appends the canonical encoding of v: its kind, then
//
//	null                nothing
//	bool                1 or 0
//	int                 varint
//	uint                uvarint
//	double              the IEEE 754 bits, 8 bytes big-endian, -0 as 0
//	string              bytes
//	list                uvarint count, then the items
//	map                 uvarint count, then name (bytes) and value of each, by name
func AppendValue(dst []byte, v Value) []byte {
	dst = append(dst, byte(v.Kind))
	switch v.Kind {
	case BoolValue:
		dst = wire.AppendBool(dst, v.Bool)
	case IntValue:
		dst = wire.AppendVarint(dst, v.Int)
	case UintValue:
		dst = wire.AppendUvarint(dst, v.Uint)
	case DoubleValue:
		bits := math.Float64bits(v.Double)
		if v.Double == 0 {
			bits = 0
		}
		for shift := 56; shift >= 0; shift -= 8 {
			dst = append(dst, byte(bits>>shift))
		}
	case StringValue:
		dst = wire.AppendBytes(dst, v.String)
	case ListValue:
		dst = wire.AppendUvarint(dst, uint64(len(v.List)))
		for _, e := range v.List {
			dst = AppendValue(dst, e)
		}
	case MapValue:
		dst = wire.AppendUvarint(dst, uint64(len(v.Map)))
		for _, f := range v.Map {
			dst = AppendValue(wire.AppendBytes(dst, f.Name), f.Value)
		}
	}
	return dst
}

// DecodeValue reads one value in its canonical form; any other fails d.
func DecodeValue(d *wire.Decoder) Value { return decodeValue(d, 0) }

func decodeValue(d *wire.Decoder, depth int) Value {
	v := Value{Kind: ValueKind(d.Byte())}
	switch v.Kind {
	case NullValue:
	case BoolValue:
		v.Bool = d.Bool()
	case IntValue:
		v.Int = d.Varint()
	case UintValue:
		if v.Uint = d.Uvarint(); v.Uint <= math.MaxInt64 && d.Err() == nil {
			d.Fail("an unsigned integer that fits a signed one")
		}
	case DoubleValue:
		var bits uint64
		for _, b := range d.Raw(8) {
			bits = bits<<8 | uint64(b)
		}
		v.Double = math.Float64frombits(bits)
		if math.IsNaN(v.Double) || math.IsInf(v.Double, 0) || v.Double == 0 && bits != 0 {
			d.Fail("a double that is not a finite number")
		}
	case StringValue:
		v.String = d.Text(maxValueBytes)
	case ListValue, MapValue:
		if depth++; depth > MaxValueDepth {
			d.Fail("nested deeper than %d", MaxValueDepth)
			return v
		}
		if v.Kind == ListValue {
			for n := d.Count(maxValueItems, 1); n > 0 && d.Err() == nil; n-- {
				v.List = append(v.List, decodeValue(d, depth))
			}
			break
		}
		for n := d.Count(maxValueItems, 2); n > 0 && d.Err() == nil; n-- {
			f := Field{Name: d.Text(maxValueBytes)}
			if len(v.Map) > 0 && v.Map[len(v.Map)-1].Name >= f.Name {
				d.Fail("map names out of order")
			}
			f.Value = decodeValue(d, depth)
			v.Map = append(v.Map, f)
		}
	default:
		d.Fail("unknown kind of value %d", v.Kind)
	}
	return v
}

// A JSONError says where a JSON text is not what it should be.
type JSONError struct {
	Offset int // in bytes from the start of the text
	Rule   string
}

func (e *JSONError) Error() string { return fmt.Sprintf("JSON at byte %d: %s", e.Offset, e.Rule) }

// ParseJSON reads one JSON value (RFC 8259), strictly: UTF-8 only, no name twice in
// an object, at most [MaxValueDepth] deep, numbers within range, nothing after the
// value. A number without fraction and exponent that fits 64 bits is an integer.
//
// It is our own and frozen, because the fold reads commands with it, and a library's
// leniency changes between releases. An error is a [*JSONError].
func ParseJSON(text []byte) (Value, error) {
	p := jsonParser{text: text}
	p.space()
	v, err := p.value(0)
	if err != nil {
		return Value{}, err
	}
	p.space()
	if p.pos < len(p.text) {
		return Value{}, p.fail("something follows the value")
	}
	return v, nil
}

type jsonParser struct {
	text   []byte
	pos    int
	values int
}

func (p *jsonParser) fail(rule string, args ...any) error {
	return &JSONError{Offset: p.pos, Rule: fmt.Sprintf(rule, args...)}
}

func (p *jsonParser) space() {
	for p.pos < len(p.text) {
		switch p.text[p.pos] {
		case ' ', '\t', '\n', '\r':
			p.pos++
		default:
			return
		}
	}
}

// peek returns the next byte, or 0 at the end; 0 is never valid where it is used.
func (p *jsonParser) peek() byte {
	if p.pos == len(p.text) {
		return 0
	}
	return p.text[p.pos]
}

func (p *jsonParser) value(depth int) (Value, error) {
	if p.values++; p.values > MaxValues {
		return Value{}, p.fail("more than %d values", MaxValues)
	}
	switch c := p.peek(); {
	case c == '{':
		return p.object(depth + 1)
	case c == '[':
		return p.array(depth + 1)
	case c == '"':
		s, err := p.string()
		return Value{Kind: StringValue, String: s}, err
	case c == '-' || c >= '0' && c <= '9':
		return p.number()
	}
	for word, v := range map[string]Value{"null": {}, "true": {Kind: BoolValue, Bool: true}, "false": {Kind: BoolValue}} {
		if strings.HasPrefix(string(p.text[p.pos:min(len(p.text), p.pos+5)]), word) {
			p.pos += len(word)
			return v, nil
		}
	}
	if p.pos == len(p.text) {
		return Value{}, p.fail("the text ends where a value is expected")
	}
	return Value{}, p.fail("no value starts with %+q", p.peek())
}

func (p *jsonParser) object(depth int) (Value, error) {
	v := Value{Kind: MapValue}
	if depth > MaxValueDepth {
		return v, p.fail("nested deeper than %d", MaxValueDepth)
	}
	p.pos++
	p.space()
	if p.peek() == '}' {
		p.pos++
		return v, nil
	}
	for {
		p.space()
		if p.peek() != '"' {
			return v, p.fail("a name in quotes is expected")
		}
		name, err := p.string()
		if err != nil {
			return v, err
		}
		p.space()
		if p.peek() != ':' {
			return v, p.fail("':' is expected after the name %+q", name)
		}
		p.pos++
		p.space()
		e, err := p.value(depth)
		if err != nil {
			return v, err
		}
		v.Map = append(v.Map, Field{name, e})
		p.space()
		switch p.peek() {
		case ',':
			p.pos++
		case '}':
			p.pos++
			slices.SortStableFunc(v.Map, func(a, b Field) int { return strings.Compare(a.Name, b.Name) })
			for i := 1; i < len(v.Map); i++ {
				if v.Map[i].Name == v.Map[i-1].Name {
					return v, p.fail("the name %+q stands twice in one object", v.Map[i].Name)
				}
			}
			return v, nil
		default:
			return v, p.fail("',' or '}' is expected")
		}
	}
}

func (p *jsonParser) array(depth int) (Value, error) {
	v := Value{Kind: ListValue}
	if depth > MaxValueDepth {
		return v, p.fail("nested deeper than %d", MaxValueDepth)
	}
	p.pos++
	p.space()
	if p.peek() == ']' {
		p.pos++
		return v, nil
	}
	for {
		p.space()
		e, err := p.value(depth)
		if err != nil {
			return v, err
		}
		v.List = append(v.List, e)
		p.space()
		switch p.peek() {
		case ',':
			p.pos++
		case ']':
			p.pos++
			return v, nil
		default:
			return v, p.fail("',' or ']' is expected")
		}
	}
}

func (p *jsonParser) string() (string, error) {
	p.pos++ // the opening quote
	start := p.pos
	var out []byte
	for {
		if p.pos == len(p.text) {
			return "", p.fail("the text ends inside quotes")
		}
		switch c := p.text[p.pos]; {
		case c == '"':
			if out == nil {
				out = p.text[start:p.pos]
			}
			if !utf8.Valid(out) {
				return "", p.fail("text is not valid UTF-8")
			}
			p.pos++
			return string(out), nil
		case c < 0x20:
			return "", p.fail("a control character inside quotes must be escaped")
		case c == '\\':
			if out == nil {
				out = append(make([]byte, 0, p.pos-start+16), p.text[start:p.pos]...)
			}
			r, err := p.escape()
			if err != nil {
				return "", err
			}
			out = utf8.AppendRune(out, r)
		default:
			if out != nil {
				out = append(out, c)
			}
			p.pos++
		}
	}
}

func (p *jsonParser) escape() (rune, error) {
	p.pos++ // the backslash
	c := p.peek()
	if i := strings.IndexByte(`"\/bfnrt`, c); i >= 0 {
		p.pos++
		return rune("\"\\/\b\f\n\r\t"[i]), nil
	}
	if c != 'u' {
		return 0, p.fail("no such escape")
	}
	r, err := p.hex4()
	if err != nil || !utf16.IsSurrogate(r) {
		return r, err
	}
	if p.peek() == '\\' && p.pos+1 < len(p.text) && p.text[p.pos+1] == 'u' {
		p.pos++
		low, err := p.hex4()
		if err != nil {
			return 0, err
		}
		if r = utf16.DecodeRune(r, low); r != utf8.RuneError {
			return r, nil
		}
	}
	return 0, p.fail("half of a surrogate pair")
}

// hex4 reads u and four hexadecimal digits.
func (p *jsonParser) hex4() (rune, error) {
	if p.pos+5 > len(p.text) {
		return 0, p.fail("four hexadecimal digits are expected")
	}
	var r rune
	for _, c := range p.text[p.pos+1 : p.pos+5] {
		switch {
		case c >= '0' && c <= '9':
			r = r<<4 | rune(c-'0')
		case c >= 'a' && c <= 'f':
			r = r<<4 | rune(c-'a'+10)
		case c >= 'A' && c <= 'F':
			r = r<<4 | rune(c-'A'+10)
		default:
			return 0, p.fail("four hexadecimal digits are expected")
		}
	}
	p.pos += 5
	return r, nil
}

func (p *jsonParser) number() (Value, error) {
	start := p.pos
	digits := func() bool {
		from := p.pos
		for c := p.peek(); c >= '0' && c <= '9'; c = p.peek() {
			p.pos++
		}
		return p.pos > from
	}
	if p.peek() == '-' {
		p.pos++
	}
	if p.peek() == '0' {
		p.pos++
	} else if !digits() {
		return Value{}, p.fail("a digit is expected")
	}
	whole := true
	if p.peek() == '.' {
		whole = false
		p.pos++
		if !digits() {
			return Value{}, p.fail("a digit is expected")
		}
	}
	if c := p.peek(); c == 'e' || c == 'E' {
		whole = false
		p.pos++
		if c := p.peek(); c == '+' || c == '-' {
			p.pos++
		}
		if !digits() {
			return Value{}, p.fail("a digit is expected")
		}
	}
	text := string(p.text[start:p.pos])
	if whole {
		if i, err := strconv.ParseInt(text, 10, 64); err == nil {
			return Value{Kind: IntValue, Int: i}, nil
		}
		if u, err := strconv.ParseUint(text, 10, 64); err == nil {
			return Value{Kind: UintValue, Uint: u}, nil
		}
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return Value{}, p.fail("the number %s is out of range", text)
	}
	return Value{Kind: DoubleValue, Double: f + 0}, nil // -0 + 0 is 0
}
