package dsl

import (
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"sync"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
	"github.com/grantlog/grantlog/ledger/model"
)

// nowName is the variable that holds the moment of the question, in conditions that
// have no parameter of that name.
const nowName = "now"

// An ipAddress is the value of a parameter of type ipaddress. An IPv4 address in an
// IPv6 one is the IPv4 address, so that a range catches it however it was written.
type ipAddress netip.Addr

var ipAddressType = cel.OpaqueType("ipaddress")

func parseIPAddress(text string) (ipAddress, error) {
	a, err := netip.ParseAddr(text)
	if err != nil || a.Zone() != "" {
		return ipAddress{}, fmt.Errorf("%+q is not an IPv4 or IPv6 address", text)
	}
	return ipAddress(a.Unmap()), nil
}

// parseCIDR reads a range of addresses such as 192.168.0.0/24.
func parseCIDR(text string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(text)
	if err != nil {
		return p, fmt.Errorf("%+q is not a range of addresses such as 192.168.0.0/24", text)
	}
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p, nil
}

// ConvertToNative implements [ref.Val].
func (a ipAddress) ConvertToNative(t reflect.Type) (any, error) {
	switch t {
	case reflect.TypeFor[netip.Addr]():
		return netip.Addr(a), nil
	case reflect.TypeFor[string]():
		return netip.Addr(a).String(), nil
	}
	return nil, fmt.Errorf("an ipaddress is no %s", t)
}

// ConvertToType implements [ref.Val].
func (a ipAddress) ConvertToType(t ref.Type) ref.Val {
	switch t {
	case types.TypeType:
		return ipAddressType
	case types.StringType:
		return types.String(netip.Addr(a).String())
	}
	return types.NewErr("an ipaddress is no %s", t.TypeName())
}

// Equal implements [ref.Val].
func (a ipAddress) Equal(other ref.Val) ref.Val {
	b, ok := other.(ipAddress)
	return types.Bool(ok && a == b)
}

// Type implements [ref.Val].
func (a ipAddress) Type() ref.Type { return ipAddressType }

// Value implements [ref.Val].
func (a ipAddress) Value() any { return netip.Addr(a) }

// A cidrValidator finds ranges in an expression that are no ranges.
type cidrValidator struct{}

// Name implements [cel.ASTValidator].
func (cidrValidator) Name() string { return "grantlog.in_cidr" }

// Validate implements [cel.ASTValidator].
func (cidrValidator) Validate(_ *cel.Env, _ cel.ValidatorConfig, a *ast.AST, issues *cel.Issues) {
	for _, call := range ast.MatchDescendants(ast.NavigateAST(a), ast.FunctionMatcher("in_cidr")) {
		for _, arg := range call.AsCall().Args() {
			if arg.Kind() != ast.LiteralKind {
				continue
			}
			if text, ok := arg.AsLiteral().Value().(string); ok {
				if _, err := parseCIDR(text); err != nil {
					issues.ReportErrorAtID(arg.ID(), "%s", err)
				}
			}
		}
	}
}

// environment is what all conditions have in common: CEL's standard library, the type
// ipaddress with ipaddress(string) and in_cidr(string), and checks of literals.
var environment = sync.OnceValues(func() (*cel.Env, error) {
	return cel.NewEnv(
		cel.Function("ipaddress", cel.Overload("string_to_ipaddress", []*cel.Type{cel.StringType}, ipAddressType,
			cel.UnaryBinding(func(text ref.Val) ref.Val {
				a, err := parseIPAddress(string(text.(types.String)))
				if err != nil {
					return types.WrapErr(err)
				}
				return a
			}))),
		cel.Function("in_cidr", cel.MemberOverload("ipaddress_in_cidr_string", []*cel.Type{ipAddressType, cel.StringType}, cel.BoolType,
			cel.BinaryBinding(func(address, cidr ref.Val) ref.Val {
				p, err := parseCIDR(string(cidr.(types.String)))
				if err != nil {
					return types.WrapErr(err)
				}
				return types.Bool(p.Contains(netip.Addr(address.(ipAddress))))
			}))),
		cel.ASTValidators(cel.ValidateDurationLiterals(), cel.ValidateTimestampLiterals(), cel.ValidateRegexLiterals(), cidrValidator{}),
		cel.DefaultUTCTimeZone(true),
		cel.EagerlyValidateDeclarations(true),
	)
})

// A celIssue is one reason why an expression does not compile; line and column are
// those of the expression, from 1.
type celIssue struct {
	line, col int
	message   string
}

// A compiled is a condition whose expression is a checked boolean.
type compiled struct {
	env *cel.Env
	ast *cel.Ast
}

// compile compiles the condition's expression over its parameters.
func compile(c *model.Condition) (compiled, []celIssue) {
	fail := func(err error) (compiled, []celIssue) { return compiled{}, []celIssue{{1, 1, err.Error()}} }
	base, err := environment()
	if err != nil {
		return fail(err)
	}
	variables := []cel.EnvOption{}
	hasNow := false
	for _, p := range c.Params {
		t := celType(p.Type)
		if t == nil {
			return fail(fmt.Errorf("parameter %+q has no valid type", p.Name))
		}
		variables = append(variables, cel.Variable(p.Name, t))
		hasNow = hasNow || p.Name == nowName
	}
	if !hasNow {
		variables = append(variables, cel.Variable(nowName, cel.TimestampType))
	}
	env, err := base.Extend(variables...)
	if err != nil {
		return fail(err)
	}
	checked, found := env.Compile(c.Expression)
	if found.Err() != nil {
		var issues []celIssue
		for _, e := range found.Errors() {
			issues = append(issues, celIssue{max(e.Location.Line(), 1), max(e.Location.Column(), 0) + 1, e.Message})
		}
		return compiled{}, issues
	}
	if out := checked.OutputType(); !out.IsExactType(cel.BoolType) {
		return fail(fmt.Errorf("the expression must be a bool, is a %s", cel.FormatCELType(out)))
	}
	return compiled{env, checked}, nil
}

// celType returns CEL's type of a parameter; nil if it is none.
func celType(t model.ParamType) *cel.Type {
	switch t.Kind {
	case model.ParamAny:
		return cel.DynType
	case model.ParamBool:
		return cel.BoolType
	case model.ParamString:
		return cel.StringType
	case model.ParamInt:
		return cel.IntType
	case model.ParamUint:
		return cel.UintType
	case model.ParamDouble:
		return cel.DoubleType
	case model.ParamDuration:
		return cel.DurationType
	case model.ParamTimestamp:
		return cel.TimestampType
	case model.ParamIPAddress:
		return ipAddressType
	}
	if t.Elem == nil {
		return nil
	}
	elem := celType(*t.Elem)
	switch {
	case elem == nil:
	case t.Kind == model.ParamList:
		return cel.ListType(elem)
	case t.Kind == model.ParamMap:
		return cel.MapType(cel.StringType, elem)
	}
	return nil
}

// celValue returns v, which has been typed as t, as a value of CEL.
func celValue(t model.ParamType, v model.Value) (ref.Val, error) {
	switch t.Kind {
	case model.ParamAny:
		return anyValue(v), nil
	case model.ParamBool:
		return types.Bool(v.Bool), nil
	case model.ParamString:
		return types.String(v.String), nil
	case model.ParamInt:
		return types.Int(v.Int), nil
	case model.ParamUint:
		if v.Kind == model.UintValue {
			return types.Uint(v.Uint), nil
		}
		return types.Uint(v.Int), nil
	case model.ParamDouble:
		return types.Double(v.Double), nil
	case model.ParamDuration:
		n, err := model.ParseDuration(v.String)
		return types.Duration{Duration: time.Duration(n)}, err
	case model.ParamTimestamp:
		n, err := model.ParseTimestamp(v.String)
		return types.Timestamp{Time: time.Unix(0, n).UTC()}, err
	case model.ParamIPAddress:
		return parseIPAddress(v.String)
	case model.ParamList:
		list := make([]ref.Val, len(v.List))
		for i, e := range v.List {
			var err error
			if list[i], err = celValue(*t.Elem, e); err != nil {
				return nil, err
			}
		}
		return types.NewRefValList(types.DefaultTypeAdapter, list), nil
	case model.ParamMap:
		return mapValue(v.Map, func(e model.Value) (ref.Val, error) { return celValue(*t.Elem, e) })
	}
	return nil, fmt.Errorf("no value of type %s", t)
}

// anyValue returns the value of a parameter of type any. Numbers are doubles, as OpenFGA
// has them from JSON, but for integers that a double does not hold exactly.
func anyValue(v model.Value) ref.Val {
	switch v.Kind {
	case model.BoolValue:
		return types.Bool(v.Bool)
	case model.IntValue:
		if exact := float64(v.Int); exact < 1<<63 && int64(exact) == v.Int {
			return types.Double(exact)
		}
		return types.Int(v.Int)
	case model.UintValue:
		if exact := float64(v.Uint); exact < 1<<64 && uint64(exact) == v.Uint {
			return types.Double(exact)
		}
		return types.Uint(v.Uint)
	case model.DoubleValue:
		return types.Double(v.Double)
	case model.StringValue:
		return types.String(v.String)
	case model.ListValue:
		list := make([]ref.Val, len(v.List))
		for i, e := range v.List {
			list[i] = anyValue(e)
		}
		return types.NewRefValList(types.DefaultTypeAdapter, list)
	case model.MapValue:
		m, _ := mapValue(v.Map, func(e model.Value) (ref.Val, error) { return anyValue(e), nil })
		return m
	}
	return types.NullValue
}

// An orderedMap is a map that is gone through in order of name. CEL's own goes through
// it in Go's order, which is another each time, so that a condition that ends at the
// first match would cost now less and now more than its limit.
type orderedMap struct {
	traits.Mapper
	names traits.Lister
}

// Iterator implements [traits.Iterable].
func (m orderedMap) Iterator() traits.Iterator { return m.names.Iterator() }

// mapValue returns the fields as a map of CEL, each value as convert has it.
func mapValue(fields []model.Field, convert func(model.Value) (ref.Val, error)) (ref.Val, error) {
	names := make([]ref.Val, len(fields))
	m := make(map[ref.Val]ref.Val, len(fields))
	for i, f := range fields {
		v, err := convert(f.Value)
		if err != nil {
			return nil, err
		}
		names[i] = types.String(f.Name)
		m[names[i]] = v
	}
	return orderedMap{types.NewRefValMap(types.DefaultTypeAdapter, m), types.NewRefValList(types.DefaultTypeAdapter, names)}, nil
}

// short returns what a person needs of a message: its first line, without the middle
// of a long one, which a value that is quoted there has made long.
func short(text string) string {
	const end = 250
	line, _, _ := strings.Cut(text, "\n")
	if len(line) > 2*end {
		line = strings.ToValidUTF8(line[:end], "") + "…" + strings.ToValidUTF8(line[len(line)-end:], "")
	}
	return line
}
