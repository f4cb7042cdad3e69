package ledger

import (
	"fmt"

	"github.com/grantlog/grantlog/ledger/model"
	"github.com/grantlog/grantlog/ledger/tuple"
)

// parseCommandJSON reads a command as a tool publishes it straight to the log:
//
//	{
//	  "id": "01890a5d-ac96-774b-bcce-b302099a8057",
//	  "store": "01HZX3V5N8K2Q7R4T6W9Y1B3D5",
//	  "model": "…", "reason": "…", "ticket": "…", "channel": "…",
//	  "preconditions": [{"tuple": "doc:plan#viewer@user:ann", "must_exist": true}],
//	  "changes": [
//	    {"grant": {"tuple": "…", "expires_at": "2026-03-01T09:00:00Z", "expires_after": "8h",
//	               "not_before": "…", "condition": "…", "context": {…}, "owner": "…"}},
//	    {"revoke": {"tuple": "…"}},
//	    {"create_store": {"store": "…", "name": "…", "admin": "…"}},
//	    {"delete_store": {"store": "…"}}
//	  ]
//	}
//
// Only id, store and changes are required. An unknown field rejects. Models are
// written through an edge, which compiles them, so they have no JSON form.
func parseCommandJSON(raw []byte) (*Command, *Rejection) {
	v, err := model.ParseJSON(raw)
	if err != nil {
		return nil, Reject(CodeMalformed, "", "not a command: %s", err)
	}
	p := &commandParser{}
	c := p.command(v)
	if p.rejection != nil {
		return nil, p.rejection
	}
	return c, nil
}

// A commandParser keeps the first rejection; after it every method returns zero values.
type commandParser struct{ rejection *Rejection }

func (p *commandParser) reject(field, format string, args ...any) {
	if p.rejection == nil {
		p.rejection = Reject(CodeMalformed, field, format, args...)
	}
}

// object calls read for each field of the object v, and rejects a field that read
// does not know and a required one that is missing.
func (p *commandParser) object(field string, v model.Value, read func(name, path string, v model.Value) (known bool), required ...string) {
	if v.Kind != model.MapValue {
		p.reject(field, "must be an object")
		return
	}
	at := func(name string) string {
		if field == "" {
			return name
		}
		return field + "." + name
	}
	for _, f := range v.Map {
		if !read(f.Name, at(f.Name), f.Value) {
			p.reject(field, "has no field %+q", f.Name)
		}
	}
	for _, name := range required {
		if _, ok := v.Field(name); !ok {
			p.reject(at(name), "is missing")
		}
	}
}

func (p *commandParser) text(field string, v model.Value) string {
	if v.Kind != model.StringValue {
		p.reject(field, "must be a string")
	}
	return v.String
}

func (p *commandParser) list(field string, v model.Value, limit int) []model.Value {
	if v.Kind != model.ListValue {
		p.reject(field, "must be a list")
	} else if len(v.List) > limit {
		if p.rejection == nil {
			p.rejection = tooMany(field, len(v.List))
		}
		return nil
	}
	return v.List
}

func (p *commandParser) id(field string, v model.Value) ID {
	id, err := ParseID(p.text(field, v))
	if err != nil {
		p.reject(field, "%s", err)
	}
	return id
}

func (p *commandParser) tuple(field string, v model.Value) tuple.Tuple {
	t, err := tuple.Parse(p.text(field, v))
	if err != nil && p.rejection == nil {
		p.rejection = TupleRejection(field, err)
	}
	return t
}

func (p *commandParser) time(field string, v model.Value) int64 {
	t, err := model.ParseTimestamp(p.text(field, v))
	if err != nil {
		p.reject(field, "%s", err)
	}
	return t
}

func (p *commandParser) command(v model.Value) *Command {
	c := new(Command)
	p.object("", v, func(name, path string, v model.Value) bool {
		switch name {
		case "id":
			id, err := ParseUUID(p.text(path, v))
			if err != nil {
				p.reject(path, "%s", err)
			}
			c.ID = id
		case "store":
			c.Store = p.id(path, v)
		case "model":
			c.Model = p.id(path, v)
		case "reason":
			c.Reason = p.text(path, v)
		case "ticket":
			c.Ticket = p.text(path, v)
		case "channel":
			c.Channel = p.text(path, v)
		case "preconditions":
			for i, e := range p.list(path, v, MaxChanges) {
				c.Preconditions = append(c.Preconditions, p.precondition(fmt.Sprintf("%s[%d]", path, i), e))
			}
		case "changes":
			for i, e := range p.list(path, v, MaxChanges) {
				c.Changes = append(c.Changes, p.change(fmt.Sprintf("%s[%d]", path, i), e))
			}
		default:
			return false
		}
		return true
	}, "id", "store", "changes")
	return c
}

func (p *commandParser) precondition(field string, v model.Value) (pre Precondition) {
	p.object(field, v, func(name, path string, v model.Value) bool {
		switch name {
		case "tuple":
			pre.Tuple = p.tuple(path, v)
		case "must_exist":
			if v.Kind != model.BoolValue {
				p.reject(path, "must be true or false")
			}
			pre.MustExist = v.Bool
		default:
			return false
		}
		return true
	}, "tuple", "must_exist")
	return pre
}

func (p *commandParser) change(field string, v model.Value) (ch Change) {
	if v.Kind == model.MapValue && len(v.Map) != 1 {
		p.reject(field, "must hold one of grant, revoke, create_store and delete_store")
		return ch
	}
	p.object(field, v, func(name, _ string, v model.Value) bool {
		// Fields keep the paths of the other forms: changes[0].tuple, not changes[0].grant.tuple.
		switch name {
		case "grant":
			ch.Kind = Grant
			p.grant(field, v, &ch)
		case "revoke":
			ch.Kind = Revoke
			p.object(field, v, func(name, path string, v model.Value) bool {
				if name == "tuple" {
					ch.Tuple = p.tuple(path, v)
				}
				return name == "tuple"
			}, "tuple")
		case "create_store":
			ch.Kind = CreateStore
			p.object(field, v, func(name, path string, v model.Value) bool {
				switch name {
				case "store":
					ch.Store = p.id(path, v)
				case "name":
					ch.Name = p.text(path, v)
				case "admin":
					ch.Admin = p.text(path, v)
				default:
					return false
				}
				return true
			}, "store", "name", "admin")
		case "delete_store":
			ch.Kind = DeleteStore
			p.object(field, v, func(name, path string, v model.Value) bool {
				if name == "store" {
					ch.Store = p.id(path, v)
				}
				return name == "store"
			}, "store")
		default:
			return false
		}
		return true
	})
	return ch
}

func (p *commandParser) grant(field string, v model.Value, ch *Change) {
	p.object(field, v, func(name, path string, v model.Value) bool {
		switch name {
		case "tuple":
			ch.Tuple = p.tuple(path, v)
		case "expires_at":
			if ch.Grant.ExpiresAt = p.time(path, v); ch.Grant.ExpiresAt <= 0 {
				p.reject(path, "must be after 1970")
			}
		case "expires_after":
			after, err := model.ParseDuration(p.text(path, v))
			if err != nil {
				p.reject(path, "%s", err)
			} else if after <= 0 {
				p.reject(path, "must be positive")
			}
			ch.ExpiresAfter = after
		case "not_before":
			ch.Grant.NotBefore = p.time(path, v)
		case "condition":
			ch.Grant.Condition = p.text(path, v)
		case "context":
			if v.Kind != model.MapValue {
				p.reject(path, "must be an object")
			} else if len(v.Map) > 0 {
				ch.Grant.Context = model.AppendContext(nil, v)
			}
		case "owner":
			ch.Grant.Owner = p.text(path, v)
		default:
			return false
		}
		return true
	}, "tuple")
}
