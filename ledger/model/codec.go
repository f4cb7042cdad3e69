package model

import (
	"fmt"

	"github.com/grantlog/grantlog/ledger/wire"
)

const modelFormat = 1

// Limits of a compiled model that hold whatever else is configured.
const (
	maxNames = 1 << 16   // items of one list
	maxText  = 256 << 10 // bytes of one text
	maxDepth = 64        // rules within rules, and types of parameters within types
)

// AppendModel appends the canonical encoding of m:
//
//	format 1 | schema, bytes | count | count × type | count | count × condition
//
//	type       name, bytes | module, bytes | count | count × relation
//	relation   name, bytes | module, bytes | rule | count | count × direct
//	direct     type, bytes | relation, bytes | wildcard 1 | condition, bytes
//	rule       op 1 | Computed: relation, bytes
//	                | From: relation, bytes | tupleset, bytes
//	                | Union, Intersect, Exclude: count | count × rule
//	condition  name, bytes | expression, bytes | module, bytes | count | count × (name, bytes | type)
//	type of a parameter   kind 1 | List, Map: type
func AppendModel(dst []byte, m *Model) []byte {
	dst = append(dst, modelFormat)
	dst = wire.AppendBytes(dst, m.Schema)
	dst = wire.AppendUvarint(dst, uint64(len(m.Types)))
	for i := range m.Types {
		t := &m.Types[i]
		dst = wire.AppendBytes(dst, t.Name)
		dst = wire.AppendBytes(dst, t.Module)
		dst = wire.AppendUvarint(dst, uint64(len(t.Relations)))
		for j := range t.Relations {
			r := &t.Relations[j]
			dst = wire.AppendBytes(dst, r.Name)
			dst = wire.AppendBytes(dst, r.Module)
			dst = appendRule(dst, &r.Rule)
			dst = wire.AppendUvarint(dst, uint64(len(r.Direct)))
			for _, d := range r.Direct {
				dst = wire.AppendBytes(dst, d.Type)
				dst = wire.AppendBytes(dst, d.Relation)
				dst = wire.AppendBool(dst, d.Wildcard)
				dst = wire.AppendBytes(dst, d.Condition)
			}
		}
	}
	dst = wire.AppendUvarint(dst, uint64(len(m.Conditions)))
	for i := range m.Conditions {
		c := &m.Conditions[i]
		dst = wire.AppendBytes(dst, c.Name)
		dst = wire.AppendBytes(dst, c.Expression)
		dst = wire.AppendBytes(dst, c.Module)
		dst = wire.AppendUvarint(dst, uint64(len(c.Params)))
		for _, p := range c.Params {
			dst = wire.AppendBytes(dst, p.Name)
			dst = appendParamType(dst, &p.Type)
		}
	}
	return dst
}

func appendRule(dst []byte, r *Rule) []byte {
	dst = append(dst, byte(r.Op))
	switch r.Op {
	case Computed:
		dst = wire.AppendBytes(dst, r.Relation)
	case From:
		dst = wire.AppendBytes(dst, r.Relation)
		dst = wire.AppendBytes(dst, r.Tupleset)
	case Union, Intersect, Exclude:
		dst = wire.AppendUvarint(dst, uint64(len(r.Children)))
		for i := range r.Children {
			dst = appendRule(dst, &r.Children[i])
		}
	}
	return dst
}

func appendParamType(dst []byte, t *ParamType) []byte {
	dst = append(dst, byte(t.Kind))
	if t.Elem != nil {
		dst = appendParamType(dst, t.Elem)
	}
	return dst
}

// DecodeModel reads what [AppendModel] wrote, and validates it. It accepts one
// encoding of each model. It is frozen: the fold decides with it which models are good.
func DecodeModel(b []byte) (*Model, error) {
	d := wire.NewDecoder(b)
	if f := d.Byte(); f != modelFormat {
		d.Fail("model format %d, known is %d", f, modelFormat)
	}
	m := &Model{Schema: d.Text(maxText)}
	for n := d.Count(maxNames, 3); n > 0 && d.Err() == nil; n-- {
		t := Type{Name: d.Text(maxText), Module: d.Text(maxText)}
		for n := d.Count(maxNames, 4); n > 0 && d.Err() == nil; n-- {
			r := Relation{Name: d.Text(maxText), Module: d.Text(maxText), Rule: decodeRule(d, 0)}
			for n := d.Count(maxNames, 4); n > 0 && d.Err() == nil; n-- {
				r.Direct = append(r.Direct, Direct{Type: d.Text(maxText), Relation: d.Text(maxText), Wildcard: d.Bool(), Condition: d.Text(maxText)})
			}
			t.Relations = append(t.Relations, r)
		}
		m.Types = append(m.Types, t)
	}
	for n := d.Count(maxNames, 4); n > 0 && d.Err() == nil; n-- {
		c := Condition{Name: d.Text(maxText), Expression: d.Text(maxText), Module: d.Text(maxText)}
		for n := d.Count(maxNames, 2); n > 0 && d.Err() == nil; n-- {
			c.Params = append(c.Params, Param{Name: d.Text(maxText), Type: decodeParamType(d, 0)})
		}
		m.Conditions = append(m.Conditions, c)
	}
	if err := d.Done(); err != nil {
		return nil, fmt.Errorf("compiled model: %w", err)
	}
	if err := m.Validate(); err != nil {
		return nil, err
	}
	return m, nil
}

func decodeRule(d *wire.Decoder, depth int) Rule {
	r := Rule{Op: Op(d.Byte())}
	if depth > maxDepth {
		d.Fail("rules nested deeper than %d", maxDepth)
	}
	switch r.Op {
	case This:
	case Computed:
		r.Relation = d.Text(maxText)
	case From:
		r.Relation, r.Tupleset = d.Text(maxText), d.Text(maxText)
	case Union, Intersect, Exclude:
		for n := d.Count(maxNames, 1); n > 0 && d.Err() == nil; n-- {
			r.Children = append(r.Children, decodeRule(d, depth+1))
		}
	default:
		d.Fail("unknown operation %d", r.Op)
	}
	return r
}

func decodeParamType(d *wire.Decoder, depth int) ParamType {
	t := ParamType{Kind: ParamKind(d.Byte())}
	switch {
	case depth > maxDepth:
		d.Fail("types nested deeper than %d", maxDepth)
	case t.Kind < ParamAny || t.Kind > ParamMap:
		d.Fail("unknown type of parameter %d", t.Kind)
	case t.Kind == ParamList || t.Kind == ParamMap:
		elem := decodeParamType(d, depth+1)
		t.Elem = &elem
	}
	return t
}
