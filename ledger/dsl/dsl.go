// Package dsl reads authorization models written in the OpenFGA modeling language,
// schema 1.1 and 1.2, into package model's compiled form, and runs their conditions.
//
// It stands at the edge: a model is parsed once, when it is written, and the log keeps
// the compiled form beside the source, so that the fold needs neither a parser nor
// CEL. Conditions run when a question is asked, never in the fold. This is the only
// package that imports the OpenFGA parser, ANTLR and CEL.
//
// A source has one of three kinds ([ledger.SourceKind]):
//
//	dsl      one file of the language
//	modules  several module files and fga.mod in one text, see [JoinModules]
//	json     the JSON form of OpenFGA's API
//
// All mistakes of a source are found at once, each with its file, line and column:
// those of the grammar, those that [model.Model.Validate] finds, and conditions whose
// CEL does not compile to a boolean. The language's own parser loses the order of
// relations, the places of names and what is defined twice; therefore its grammar's
// tree is read here directly.
//
// In one thing the sources read here go beyond that grammar: a parameter may be of the
// type any, which OpenFGA documents and its JSON form has, and the grammar left out.
package dsl

import (
	"cmp"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/ledger/model"
)

// Limits bound what [Parse] reads. A zero field is its default. The log's format and
// package model have limits of their own, for ever, so that a model that is to be
// written ([Compile]) may be limited further, and not less: [ledger.MaxModelSource]
// bytes of source, and [model.MaxTypes] types.
type Limits struct {
	Source int // bytes of the source; by default [ledger.MaxModelSource]
	Types  int // types of the model; by default [DefaultTypes]
	Errors int // mistakes that are reported; by default 100
}

// DefaultTypes is how many types a model may have by default.
const DefaultTypes = 100

const defaultErrors = 100

// An Error is one mistake in a source, and where it is.
type Error struct {
	File    string // of modules: the file, or ModFile; else ""
	Line    int    // from 1; 0 if the source as a whole is wrong
	Col     int    // from 1, in characters
	Thing   string // the name or text that is wrong, or ""
	Message string // the rule, and what would be right
}

// Error returns file:line:col: message, without what is not known.
func (e Error) Error() string {
	var b strings.Builder
	if e.File != "" {
		b.WriteString(e.File + ":")
	}
	if e.Line > 0 {
		fmt.Fprintf(&b, "%d:%d:", e.Line, e.Col)
	}
	if b.Len() > 0 {
		b.WriteByte(' ')
	}
	b.WriteString(e.Message)
	return b.String()
}

// Errors are the mistakes of a source in the order of their places, at least one.
type Errors []Error

// Error returns one line for each mistake.
func (es *Errors) Error() string {
	lines := make([]string, len(*es))
	for i, e := range *es {
		lines[i] = e.Error()
	}
	return strings.Join(lines, "\n")
}

// Parse reads a source. The model has been validated, is ready for use, and its
// conditions compile. Any error is an [*Errors].
func Parse(kind ledger.SourceKind, source []byte, limits Limits) (*model.Model, error) {
	d := newDraft()
	d.most = cmp.Or(limits.Errors, d.most)
	switch most := cmp.Or(limits.Source, ledger.MaxModelSource); {
	case len(source) > most:
		d.giveUp(place{}, "", "the source must be at most %d bytes, is %d", most, len(source))
	case !utf8.Valid(source):
		d.giveUp(invalidUTF8(string(source)), "", "the source must be valid UTF-8")
	case kind == ledger.SourceDSL:
		d.readDSL(string(source))
	case kind == ledger.SourceModules:
		d.readModules(source)
	case kind == ledger.SourceJSON:
		d.readJSON(string(source))
	default:
		d.giveUp(place{}, "", "unknown kind of source %d", kind)
	}
	if n, most := len(d.model.Types), cmp.Or(limits.Types, DefaultTypes); n > most {
		d.giveUp(d.schema, "", "a model must define at most %d types, this defines %d", most, n)
	}
	switch {
	case !d.broken:
		d.validate()
	case kind == ledger.SourceModules:
		d.validateNames()
	}
	if len(d.errs) > 0 {
		return nil, d.errors()
	}
	return &d.model, nil
}

// Compile parses a source and returns it as it is written to a store, under a new id.
// Of the limits, that of the source is [ledger.MaxModelSource] at most.
// An error is an [*Errors].
func Compile(kind ledger.SourceKind, source []byte, limits Limits) (ledger.ModelSource, error) {
	limits.Source = min(cmp.Or(limits.Source, ledger.MaxModelSource), ledger.MaxModelSource)
	m, err := Parse(kind, source, limits)
	if err != nil {
		return ledger.ModelSource{}, err
	}
	compiled := model.AppendModel(nil, m)
	if len(compiled) > ledger.MaxModelSource {
		return ledger.ModelSource{}, &Errors{{Message: fmt.Sprintf("the compiled model must be at most %d bytes, is %d", ledger.MaxModelSource, len(compiled))}}
	}
	return ledger.ModelSource{ID: ledger.NewID(), Kind: kind, Source: slices.Clone(source), Compiled: compiled}, nil
}

// A place is where something stands in a source. The zero place is the whole source.
type place struct {
	file      string
	line, col int
}

// invalidUTF8 returns the place of the first byte of text that is not UTF-8.
func invalidUTF8(text string) place {
	at := 0
	for at < len(text) {
		r, size := utf8.DecodeRuneInString(text[at:])
		if r == utf8.RuneError && size == 1 {
			break
		}
		at += size
	}
	start := strings.LastIndexByte(text[:at], '\n') + 1
	return place{"", strings.Count(text[:at], "\n") + 1, utf8.RuneCountInString(text[start:at]) + 1}
}

// A mention is a name where a relation's definition holds it.
type mention struct {
	text string
	at   place
	role role
}

// A role is what a mention is in its relation's definition.
type role byte

const (
	otherRole     role = iota
	typeRole           // the type of an entry in brackets
	conditionRole      // the condition of one
	computedRole       // a relation of the same type
	fromRole           // a relation of other types, asked by way of the mention after it
	tuplesetRole       // that one, which follows "from"
)

// A relationKey names a relation of a type, and a parameter of a condition.
type relationKey struct{ owner, name string }

// A draft is a model while it is read, with the places of its parts.
type draft struct {
	model  model.Model
	errs   []Error
	most   int      // mistakes that are reported
	more   int      // mistakes beyond, whose place has not been looked up
	named  bool     // every mistake says by names what it is in, and no place but its own
	broken bool     // parts could not be read, so that the rules of models would find what is not so
	files  []string // of modules, in order, for the order of errors

	schema      place
	types       map[string]place
	relations   map[relationKey][]mention      // the first is the relation's own name
	tuplesets   map[relationKey][]model.Direct // of those that may follow "from", what they are granted to
	conditions  map[string]place
	params      map[relationKey]place
	expressions map[string]place // where the CEL begins
	verbatim    bool             // lines and columns within an expression are those of the source
}

func newDraft() *draft {
	return &draft{
		most:        defaultErrors,
		types:       make(map[string]place),
		relations:   make(map[relationKey][]mention),
		tuplesets:   make(map[relationKey][]model.Direct),
		conditions:  make(map[string]place),
		params:      make(map[relationKey]place),
		expressions: make(map[string]place),
	}
}

func (d *draft) fail(at place, thing, format string, args ...any) {
	d.errs = append(d.errs, Error{at.file, at.line, at.col, thing, fmt.Sprintf(format, args...)})
}

// giveUp is fail for a mistake that leaves the draft with a part missing.
func (d *draft) giveUp(at place, thing, format string, args ...any) {
	d.broken = true
	d.fail(at, thing, format, args...)
}

// first says where the first is of what is defined twice.
func (d *draft) first(at place) string {
	if d.named {
		return ""
	}
	return fmt.Sprintf("; the first is at %s", at)
}

// addType adds a type, unless there is one of its name.
func (d *draft) addType(t model.Type, at place) *model.Type {
	if first, ok := d.types[t.Name]; ok {
		d.fail(at, t.Name, "the type %+q is defined twice%s", t.Name, d.first(first))
		return nil
	}
	d.types[t.Name] = at
	d.model.Types = append(d.model.Types, t)
	return &d.model.Types[len(d.model.Types)-1]
}

// addRelation adds a relation to a type, unless it has one of its name. The first of
// its mentions is the place of its own name.
func (d *draft) addRelation(t *model.Type, r model.Relation, mentions []mention) {
	key := relationKey{t.Name, r.Name}
	if first, ok := d.relations[key]; ok {
		d.fail(mentions[0].at, r.Name, "the relation %+q of type %+q is defined twice%s", r.Name, t.Name, d.first(first[0].at))
		return
	}
	d.relations[key] = mentions
	if r.Rule.Op == model.This && !slices.ContainsFunc(r.Direct, func(k model.Direct) bool { return k.Wildcard || k.Relation != "" }) {
		d.tuplesets[key] = r.Direct
	}
	t.Relations = append(t.Relations, r)
}

// addDirect adds a kind of subject to a relation of a type, unless it has it already.
func (d *draft) addDirect(typ string, r *model.Relation, k model.Direct, at place) {
	if len(r.Direct) <= model.MaxKinds && slices.Contains(r.Direct, k) {
		d.fail(at, k.String(), "%s stands twice in the types of relation %+q of type %+q", k, r.Name, typ)
		return
	}
	r.Direct = append(r.Direct, k)
}

// addCondition adds a condition, unless there is one of its name.
func (d *draft) addCondition(c model.Condition, at, expression place) {
	if first, ok := d.conditions[c.Name]; ok {
		d.fail(at, c.Name, "the condition %+q is defined twice%s", c.Name, d.first(first))
		return
	}
	d.conditions[c.Name] = at
	d.expressions[c.Name] = expression
	slices.SortFunc(c.Params, func(a, b model.Param) int { return strings.Compare(a.Name, b.Name) })
	d.model.Conditions = append(d.model.Conditions, c)
}

// addParam adds a parameter to a condition, unless it has one of its name.
func (d *draft) addParam(c *model.Condition, p model.Param, at place) {
	if slices.ContainsFunc(c.Params, func(q model.Param) bool { return q.Name == p.Name }) {
		d.fail(at, p.Name, "the parameter %+q of condition %+q is defined twice", p.Name, c.Name)
		return
	}
	if _, ok := d.params[relationKey{c.Name, p.Name}]; !ok {
		d.params[relationKey{c.Name, p.Name}] = at
	}
	c.Params = append(c.Params, p)
}

func (p place) String() string {
	s := fmt.Sprintf("%d:%d", p.line, p.col)
	if p.file != "" {
		s = p.file + ":" + s
	}
	return s
}

// validate holds the draft against the rules of package model, and compiles its
// conditions.
func (d *draft) validate() {
	if err := d.model.Validate(); err != nil {
		var faults model.Faults
		if !errors.As(err, &faults) {
			d.fail(place{}, "", "%s", err)
		}
		if len(faults) > d.most {
			d.more = len(faults) - d.most
			faults = faults[:d.most]
		}
		seen := make(map[model.Fault]int)
		for _, f := range faults {
			key := f
			key.Message = ""
			d.fail(d.locate(f, seen[key]), f.Thing, "%s", f)
			seen[key]++
		}
	}
	for i := range d.model.Types {
		d.loops(&d.model.Types[i])
		d.empty(&d.model.Types[i])
	}
	for i := range d.model.Conditions {
		c := &d.model.Conditions[i]
		_, issues := compile(c)
		for _, issue := range issues {
			at := d.expressions[c.Name]
			switch {
			case !d.verbatim:
				d.fail(at, c.Name, "condition %+q, line %d, column %d of its expression: %s", c.Name, issue.line, issue.col, issue.message)
				continue
			case issue.line > 1:
				at = place{at.file, at.line + issue.line - 1, issue.col}
			default:
				at.col += issue.col - 1
			}
			d.fail(at, c.Name, "condition %+q: %s", c.Name, issue.message)
		}
	}
}

// validateNames is validate for modules of which a part could not be read: it holds
// what was read against the rules that no other file can change, those of names and of
// conditions.
func (d *draft) validateNames() {
	named := model.Model{Schema: "1.2", Types: []model.Type{{Name: "none"}}, Conditions: d.model.Conditions}
	if len(d.model.Types) > 0 {
		named.Types = nil
	}
	for _, t := range d.model.Types {
		bare := model.Type{Name: t.Name, Module: t.Module}
		for _, r := range t.Relations {
			bare.Relations = append(bare.Relations, model.Relation{Name: r.Name, Module: r.Module,
				Rule: model.Rule{Op: model.This}, Direct: []model.Direct{{Type: t.Name}}})
		}
		named.Types = append(named.Types, bare)
	}
	d.model = named
	d.validate()
}

// loops finds the relations of a type that are computed from themselves on the same
// object: the strongly connected parts, by Tarjan's algorithm. Package model names
// where each loop closes; here each relation of it is named, since any may be the one
// to change.
func (d *draft) loops(t *model.Type) {
	relations := make(map[string]*model.Relation, len(t.Relations))
	for i := range t.Relations {
		relations[t.Relations[i].Name] = &t.Relations[i]
	}
	number, lowest, part := make(map[string]int), make(map[string]int), make(map[string]int)
	var open []string
	var visit func(name string)
	visit = func(name string) {
		number[name] = len(number) + 1
		lowest[name] = number[name]
		open = append(open, name)
		eachComputed(&relations[name].Rule, func(next string) {
			switch {
			case relations[next] == nil: // named as unknown already
			case number[next] == 0:
				visit(next)
				lowest[name] = min(lowest[name], lowest[next])
			case part[next] == 0:
				lowest[name] = min(lowest[name], number[next])
			}
		})
		if lowest[name] == number[name] {
			at := slices.Index(open, name)
			for _, member := range open[at:] {
				part[member] = number[name]
			}
			open = open[:at]
		}
	}
	for i := range t.Relations {
		if name := t.Relations[i].Name; number[name] == 0 {
			visit(name)
		}
	}
	for i := range t.Relations {
		r, by := &t.Relations[i], ""
		eachComputed(&r.Rule, func(next string) {
			if by == "" && part[next] == part[r.Name] {
				by = next
			}
		})
		at := d.relations[relationKey{t.Name, r.Name}][0].at
		if by != "" && !slices.ContainsFunc(d.errs, func(e Error) bool { return (place{e.File, e.Line, e.Col}) == at }) {
			d.fail(at, r.Name, "relation %+q of type %+q: it is computed from itself on the same object, by way of %+q", r.Name, t.Name, by)
		}
	}
}

// eachComputed calls yield with each relation of the same object that a rule names.
func eachComputed(rule *model.Rule, yield func(name string)) {
	if rule.Op == model.Computed {
		yield(rule.Relation)
	}
	for i := range rule.Children {
		eachComputed(&rule.Children[i], yield)
	}
}

// empty finds the relations of a type that nobody could ever hold because they
// subtract what they begin with. Package model, whose rules are frozen, has no rule of
// it; a model written before there was one still answers, with no.
func (d *draft) empty(t *model.Type) {
	for i := range t.Relations {
		if r := &t.Relations[i]; r.Rule.Op == model.Exclude && len(r.Rule.Children) == 2 && reflect.DeepEqual(r.Rule.Children[0], r.Rule.Children[1]) {
			mentions := d.relations[relationKey{t.Name, r.Name}]
			d.fail(mentions[min(1, len(mentions)-1)].at, r.Name, "relation %+q of type %+q: nobody could ever hold it: it subtracts what it begins with", r.Name, t.Name)
		}
	}
}

// locate returns the place of what a fault is about: of several mentions of it in one
// relation the nth, those first that are wrong by themselves.
func (d *draft) locate(f model.Fault, nth int) place {
	switch {
	case f.Relation != "":
		var wrong, right []place
		mentions := d.relations[relationKey{f.Type, f.Relation}]
		for i, m := range mentions {
			switch {
			case m.text != f.Thing:
			case d.wrong(f.Type, mentions[i:]):
				wrong = append(wrong, m.at)
			default:
				right = append(right, m.at)
			}
		}
		if at := append(wrong, right...); len(at) > 0 {
			return at[min(nth, len(at)-1)]
		}
		return mentions[0].at
	case f.Type != "":
		return d.types[f.Type]
	case f.Condition != "":
		if at, ok := d.params[relationKey{f.Condition, f.Thing}]; ok {
			return at
		}
		return d.conditions[f.Condition]
	}
	return d.schema
}

// wrong reports whether the first of some mentions in a relation of type owner names
// what is not there or what cannot stand there.
func (d *draft) wrong(owner string, mentions []mention) bool {
	known := true
	switch m := mentions[0]; m.role {
	case typeRole:
		_, known = d.types[m.text]
	case conditionRole:
		_, known = d.conditions[m.text]
	case computedRole:
		_, known = d.relations[relationKey{owner, m.text}]
	case fromRole:
		to, set := d.tuplesets[relationKey{owner, mentions[1].text}]
		known = !set || slices.ContainsFunc(to, func(k model.Direct) bool { return d.relations[relationKey{k.Type, m.text}] != nil })
	case tuplesetRole:
		_, known = d.tuplesets[relationKey{owner, m.text}]
	}
	return !known
}

// errors returns the mistakes found, in the order of their places.
func (d *draft) errors() error {
	slices.SortStableFunc(d.errs, func(a, b Error) int {
		return cmp.Or(cmp.Compare(slices.Index(d.files, a.File), slices.Index(d.files, b.File)), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Col, b.Col))
	})
	errs := slices.Compact(d.errs)
	if n := len(errs); n > d.most {
		d.more += n - d.most
		errs = errs[:d.most]
	}
	if d.more > 0 {
		errs = append(errs[:len(errs):len(errs)], Error{Message: fmt.Sprintf("and %d more", d.more)})
	}
	return (*Errors)(&errs)
}
