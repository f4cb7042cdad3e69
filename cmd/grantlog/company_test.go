package main

import (
	"strings"
	"testing"
)

func TestCompany(t *testing.T) {
	orders := company()
	seen := map[string]bool{}
	objects := map[string]map[string]bool{}
	for _, o := range orders {
		if o.reason == "" || o.ticket == "" || o.actor == "" {
			t.Errorf("an order without a why: %+v", o)
		}
		if n := len(o.changes); n == 0 || n > 1000 {
			t.Errorf("%s: %d changes", o.ticket, n)
		}
		for _, c := range o.changes {
			g := c.GetGrant()
			text := said(g.GetTuple())
			if seen[text] {
				t.Errorf("%s: %q is granted twice", o.ticket, text)
			}
			seen[text] = true
			for _, name := range []string{g.GetTuple().GetObject(), g.GetTuple().GetSubject()} {
				name, _, _ = strings.Cut(name, "#")
				typ, id, _ := strings.Cut(name, ":")
				if objects[typ] == nil {
					objects[typ] = map[string]bool{}
				}
				objects[typ][id] = true
			}
		}
	}
	for _, tt := range []struct {
		typ  string
		want int
	}{{"user", people + 1}, {"group", 40}, {"service", 20}, {"repository", 60}, {"environment", 60}, {"database", 120}, {"secret", 120}, {"folder", 40}, {"document", 600}} {
		if got := len(objects[tt.typ]); got != tt.want {
			t.Errorf("%d of type %s, want %d", got, tt.typ, tt.want)
		}
	}
	if n := sampleTuples(orders); n < 3000 || n > 6000 || n != len(seen) {
		t.Errorf("%d grants", n)
	}
	t.Logf("%d orders, %d grants", len(orders), len(seen))
}
