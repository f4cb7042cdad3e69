package dsl

import (
	"fmt"
	"strings"

	"github.com/antlr4-go/antlr/v4"
	"github.com/grantlog/grantlog/ledger/model"
	grammar "github.com/openfga/language/pkg/go/gen"
)

// readDSL reads one file that is a whole model.
func (d *draft) readDSL(text string) {
	d.verbatim = true
	main := d.parse("", text)
	if main == nil {
		return
	}
	header := main.ModelHeader()
	if header == nil {
		d.giveUp(startOf("", main.ModuleHeader()), "module", "a model in one file begins with \"model\" and \"schema 1.1\"; a module is written together with its fga.mod")
		return
	}
	version := header.GetSchemaVersion()
	d.model.Schema, d.schema = version.GetText(), tokenPlace("", version)
	d.definitions("", "", main)
}

// A tree is what the grammar makes of one file.
type tree struct {
	grammar.IMainContext
	prepared
}

// A prepared is what the parser does not see of a file.
type prepared struct {
	bodies map[place]body // of conditions, by the place of their '{'
	anys   map[place]bool // where the type of a parameter is any
}

// A body is the text between a condition's braces, and where it begins.
type body struct {
	text string
	at   place
}

// parse reads one file by the grammar. If the file breaks it, the draft has the
// mistakes, and the result is nil.
func (d *draft) parse(file, text string) *tree {
	before := len(d.errs)
	runes := []rune(blankComments(text))
	if len(runes) == 0 {
		d.giveUp(place{file, 1, 1}, "", "there is nothing here but space and comments; a model begins with \"model\" and \"schema 1.1\", a module with \"module\" and its name")
		return nil
	}
	t := &tree{prepared: d.prepare(file, runes)}
	if len(d.errs) > before {
		return nil
	}
	for len(runes) > 0 && runes[len(runes)-1] == ' ' { // blanked, and nothing may follow a relation
		runes = runes[:len(runes)-1]
	}
	listener := &syntaxListener{draft: d, file: file}
	lexer := newLexer(runes)
	lexer.AddErrorListener(listener)
	parser := grammar.NewOpenFGAParser(antlr.NewCommonTokenStream(lexer, antlr.TokenDefaultChannel))
	parser.RemoveErrorListeners()
	parser.AddErrorListener(listener)
	t.IMainContext = parser.Main()
	if len(d.errs) > before {
		return nil
	}
	return t
}

func newLexer(runes []rune) *grammar.OpenFGALexer {
	lexer := grammar.NewOpenFGALexer(antlr.NewInputStream(string(runes)))
	lexer.RemoveErrorListeners()
	return lexer
}

// prepare blanks what would cost the generated parser time beyond all measure, and
// means nothing to it: the bodies of conditions, which it takes apart token by token
// although CEL reads them anyway (quadratic), and parentheses directly within
// parentheses (cubic). The type any, which the grammar does not know, becomes int.
// Lines and columns stay. It returns the bodies, and where any stood.
func (d *draft) prepare(file string, runes []rune) prepared {
	stream := antlr.NewCommonTokenStream(newLexer(runes), antlr.TokenDefaultChannel)
	stream.Fill()
	bodies, anys := make(map[place]body), make(map[place]bool)
	var (
		brace     antlr.Token   // the '{' of the condition under way
		condition bool          // a condition is under way
		defining  bool          // the definition of a relation is under way
		open      []antlr.Token // its parentheses
		last      antlr.Token   // the token before, other than space
		within    = make(map[int][2]antlr.Token)
	)
	for _, t := range stream.GetAllTokens() {
		switch t.GetTokenType() {
		case grammar.OpenFGALexerWHITESPACE:
			continue
		case grammar.OpenFGALexerCONDITION:
			condition, brace = true, nil
		case grammar.OpenFGALexerLBRACE:
			if condition && brace == nil {
				brace = t
			}
		case grammar.OpenFGALexerRBRACE:
			if brace != nil {
				bodies[tokenPlace(file, brace)] = bodyOf(file, brace, runes[brace.GetStop()+1:t.GetStart()])
			}
			condition, brace = false, nil
		case grammar.OpenFGALexerDEFINE:
			defining, open = true, nil
		case grammar.OpenFGALexerNEWLINE:
			defining = false
		case grammar.OpenFGALexerLPAREN:
			if defining && !condition {
				if open = append(open, t); len(open) > model.MaxRuleDepth {
					d.giveUp(tokenPlace(file, t), "(", "parentheses are nested deeper than %d", model.MaxRuleDepth)
					return prepared{}
				}
			}
		case grammar.OpenFGALexerIDENTIFIER:
			if condition && brace == nil && t.GetText() == "any" && last != nil &&
				(last.GetTokenType() == grammar.OpenFGALexerCOLON || last.GetTokenType() == grammar.OpenFGALexerLESS) {
				copy(runes[t.GetStart():], []rune("int"))
				anys[tokenPlace(file, t)] = true
			}
		case grammar.OpenFGALexerRPAREN:
			if !defining || condition || len(open) == 0 {
				break
			}
			from := open[len(open)-1]
			open = open[:len(open)-1]
			// within holds, by its ')', each pair; this one is idle if it begins and ends
			// with another.
			if inner, ok := within[last.GetTokenIndex()]; ok && strings.TrimSpace(string(runes[from.GetStop()+1:inner[0].GetStart()])) == "" {
				runes[from.GetStart()], runes[t.GetStart()] = ' ', ' '
				from = inner[0]
			}
			within[t.GetTokenIndex()] = [2]antlr.Token{from, t}
		}
		last = t
	}
	return prepared{bodies, anys}
}

// bodyOf blanks a body, and returns what it was without the space around it.
func bodyOf(file string, brace antlr.Token, runes []rune) body {
	text := string(runes)
	at := tokenPlace(file, brace)
	at.col++
	inner := strings.TrimLeft(text, " \t\r\n\f")
	for _, r := range text[:len(text)-len(inner)] {
		if at.col++; r == '\n' {
			at.line, at.col = at.line+1, 1
		}
	}
	for i, r := range runes {
		if r != '\n' && r != '\r' {
			runes[i] = ' '
		}
	}
	return body{strings.TrimRight(inner, " \t\r\n\f"), at}
}

// blankComments removes what the language counts as comments and its grammar does not
// know everywhere: lines that begin with '#', and " #" with what follows it in a line,
// outside quotes. What remains keeps its line and column.
func blankComments(text string) string {
	lines := strings.Split(strings.TrimPrefix(text, "\ufeff"), "\n")
	for i, line := range lines {
		ending := ""
		if rest, ok := strings.CutSuffix(line, "\r"); ok {
			line, ending = rest, "\r"
		}
		if strings.HasPrefix(strings.TrimLeft(line, " \t"), "#") {
			line = ""
		}
		if at := commentStart(line); at >= 0 {
			line = line[:at]
		}
		lines[i] = strings.TrimRight(line, " \t") + ending
	}
	return strings.TrimRight(strings.Join(lines, "\n"), "\r\n")
}

// commentStart returns where a comment begins in a line, -1 if nowhere.
func commentStart(line string) int {
	var quote byte
	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case quote != 0 && c == '\\':
			i++
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case c == '"' || c == '\'':
			quote = c
		case c == '#' && i > 0 && (line[i-1] == ' ' || line[i-1] == '\t'):
			return i - 1
		}
	}
	return -1
}

// A syntaxListener takes the mistakes that lexer and parser find into the draft.
type syntaxListener struct {
	*antlr.DefaultErrorListener
	draft *draft
	file  string
}

func (l *syntaxListener) SyntaxError(recognizer antlr.Recognizer, symbol any, line, column int, message string, _ antlr.RecognitionException) {
	thing := ""
	if token, ok := symbol.(antlr.Token); ok && token.GetTokenType() != antlr.TokenEOF {
		thing = strings.TrimSpace(token.GetText())
		if strings.Contains(message, "CONDITION_PARAM_TYPE") {
			message = paramHint(message, thing)
		} else if hint := mixed(recognizer, token); hint != "" {
			message = hint
		}
	}
	l.draft.giveUp(place{l.file, line, column + 1}, thing, "%s", message)
}

// paramHint says what stands where the grammar wants the type of a parameter.
func paramHint(message, thing string) string {
	const plain = "bool, string, int, uint, double, duration, timestamp, ipaddress or any"
	if strings.Contains(message, "CONDITION_PARAM_CONTAINER") {
		return fmt.Sprintf("there is no type of parameters %+q; there are %s, and list<…> and map<…> of one of these", thing, plain)
	}
	return fmt.Sprintf("the elements of a list or map must be %s, not %+q", plain, thing)
}

// mixed explains the commonest mistake, for which the parser's words are of little
// help: an operator after another one, without parentheses.
func mixed(recognizer antlr.Recognizer, token antlr.Token) string {
	parser, ok := recognizer.(antlr.Parser)
	if !ok {
		return ""
	}
	if token.GetTokenType() == grammar.OpenFGALexerWHITESPACE {
		stream := parser.GetTokenStream()
		if next := token.GetTokenIndex() + 1; next < stream.Size() {
			token = stream.Get(next)
		}
	}
	switch token.GetTokenType() {
	case grammar.OpenFGALexerAND, grammar.OpenFGALexerOR, grammar.OpenFGALexerBUT_NOT:
		return fmt.Sprintf("unexpected %+q: operators cannot be mixed, nor \"but not\" be repeated, without parentheses, and each stands between two relations", token.GetText())
	}
	return ""
}

func tokenPlace(file string, t antlr.Token) place { return place{file, t.GetLine(), t.GetColumn() + 1} }

func startOf(file string, node antlr.ParserRuleContext) place {
	return tokenPlace(file, node.GetStart())
}

// definitions reads the types and conditions of one file. In a module, types may be
// extended; extensions are left for the end, since the type may stand in a later file.
func (d *draft) definitions(file, module string, main *tree) (extensions []extension) {
	extended := make(map[string]bool)
	for _, t := range main.TypeDefs().AllTypeDef() {
		name := t.GetTypeName()
		at := startOf(file, name)
		if t.EXTEND() != nil {
			switch {
			case module == "":
				d.fail(at, name.GetText(), "a type can be extended in a module only")
			case extended[name.GetText()]:
				d.fail(at, name.GetText(), "the type %+q is extended twice in this file", name.GetText())
			default:
				extended[name.GetText()] = true
				extensions = append(extensions, extension{file, module, name.GetText(), at, t})
			}
			continue
		}
		if typ := d.addType(model.Type{Name: name.GetText(), Module: module}, at); typ != nil {
			d.relationsOf(file, "", typ, t)
		}
	}
	for _, c := range main.Conditions().AllCondition() {
		d.condition(file, module, c, main.prepared)
	}
	return extensions
}

// An extension is an "extend type" of a module.
type extension struct {
	file, module, name string
	at                 place
	def                grammar.ITypeDefContext
}

// extend adds the relations of an extension to its type.
func (d *draft) extend(e extension) {
	for i := range d.model.Types {
		if t := &d.model.Types[i]; t.Name == e.name {
			module := e.module
			if module == t.Module {
				module = ""
			}
			d.relationsOf(e.file, module, t, e.def)
			return
		}
	}
	if !d.broken { // else the type may stand in a file that could not be read
		d.fail(e.at, e.name, "the type %+q that is extended here is defined nowhere", e.name)
	}
}

func (d *draft) relationsOf(file, module string, t *model.Type, def grammar.ITypeDefContext) {
	for _, declaration := range def.AllRelationDeclaration() {
		name := declaration.RelationName()
		r := ruleReader{draft: d, file: file, typ: t.Name}
		r.relation = model.Relation{Name: name.GetText(), Module: module}
		r.mention(name.GetText(), name.GetStart(), otherRole)
		r.relation.Rule = r.rule(declaration.RelationDef())
		d.addRelation(t, r.relation, r.mentions)
	}
}

// A ruleReader reads the definition of one relation.
type ruleReader struct {
	draft    *draft
	file     string
	typ      string // the type of the relation
	relation model.Relation
	mentions []mention
}

func (r *ruleReader) mention(text string, at antlr.Token, as role) {
	r.mentions = append(r.mentions, mention{text, tokenPlace(r.file, at), as})
}

// rule reads a node of the tree that is one operand, or operands with one operator
// between them. Nodes that hold one operand only, such as parentheses, vanish.
func (r *ruleReader) rule(node antlr.Tree) model.Rule {
	switch n := node.(type) {
	case *grammar.RelationDefDirectAssignmentContext:
		for _, restriction := range n.AllRelationDefTypeRestriction() {
			r.direct(restriction)
		}
		return model.Rule{Op: model.This}
	case *grammar.RelationDefRewriteContext:
		computed, tupleset := n.GetRewriteComputedusersetName(), n.GetRewriteTuplesetName()
		if tupleset == nil {
			r.mention(computed.GetText(), computed.GetStart(), computedRole)
			return model.Rule{Op: model.Computed, Relation: computed.GetText()}
		}
		r.mention(computed.GetText(), computed.GetStart(), fromRole)
		r.mention(tupleset.GetText(), tupleset.GetStart(), tuplesetRole)
		return model.Rule{Op: model.From, Relation: computed.GetText(), Tupleset: tupleset.GetText()}
	}
	var rule model.Rule
	r.operands(node, &rule)
	if len(rule.Children) == 1 {
		return rule.Children[0]
	}
	return rule
}

// operands adds the operands that node holds to rule, and sets its operator.
func (r *ruleReader) operands(node antlr.Tree, rule *model.Rule) {
	for _, child := range node.GetChildren() {
		switch c := child.(type) {
		case antlr.TerminalNode:
			switch c.GetSymbol().GetTokenType() {
			case grammar.OpenFGALexerOR:
				rule.Op = model.Union
			case grammar.OpenFGALexerAND:
				rule.Op = model.Intersect
			case grammar.OpenFGALexerBUT_NOT:
				rule.Op = model.Exclude
			}
		case *grammar.RelationDefPartialsContext: // the second operand and those after it
			r.operands(c, rule)
		default:
			rule.Children = append(rule.Children, r.rule(c))
		}
	}
}

// direct reads one entry of the list in brackets.
func (r *ruleReader) direct(restriction grammar.IRelationDefTypeRestrictionContext) {
	base := restriction.RelationDefTypeRestrictionBase()
	name := base.GetRelationDefTypeRestrictionType()
	k := model.Direct{Type: name.GetText(), Wildcard: base.GetRelationDefTypeRestrictionWildcard() != nil}
	r.mention(k.Type, name.GetStart(), typeRole)
	if relation := base.GetRelationDefTypeRestrictionRelation(); relation != nil {
		k.Relation = relation.GetText()
	}
	if condition := restriction.ConditionName(); condition != nil {
		k.Condition = condition.GetText()
		r.mention(k.Condition, condition.GetStart(), conditionRole)
	}
	if inline := restriction.DOLLAR_EXPRESSION(); inline != nil {
		r.draft.fail(tokenPlace(r.file, inline.GetSymbol()), inline.GetText(), "after \"with\" stands the name of a condition; the expression itself cannot be given with a grant")
	}
	if k.String() != k.Type {
		r.mention(k.String(), name.GetStart(), otherRole)
	}
	r.draft.addDirect(r.typ, &r.relation, k, startOf(r.file, name))
}

var paramKinds = map[string]model.ParamKind{
	"any": model.ParamAny, "bool": model.ParamBool, "string": model.ParamString, "int": model.ParamInt,
	"uint": model.ParamUint, "double": model.ParamDouble, "duration": model.ParamDuration,
	"timestamp": model.ParamTimestamp, "ipaddress": model.ParamIPAddress, "list": model.ParamList, "map": model.ParamMap,
}

func (d *draft) condition(file, module string, def grammar.IConditionContext, prepared prepared) {
	name, body := def.ConditionName(), prepared.bodies[tokenPlace(file, def.LBRACE().GetSymbol())]
	plain := func(t antlr.Token) model.ParamKind {
		if prepared.anys[tokenPlace(file, t)] {
			return model.ParamAny
		}
		return paramKinds[t.GetText()]
	}
	c := model.Condition{Name: name.GetText(), Module: module, Expression: body.text}
	for _, p := range def.AllConditionParameter() {
		typ := p.ParameterType()
		param := model.Param{Name: p.ParameterName().GetText()}
		if container := typ.CONDITION_PARAM_CONTAINER(); container != nil {
			elem := model.ParamType{Kind: plain(typ.CONDITION_PARAM_TYPE().GetSymbol())}
			param.Type = model.ParamType{Kind: paramKinds[container.GetText()], Elem: &elem}
		} else {
			param.Type.Kind = plain(typ.GetStart())
		}
		d.addParam(&c, param, startOf(file, p.ParameterName()))
	}
	d.addCondition(c, startOf(file, name), body.at)
}
