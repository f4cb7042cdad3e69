package main

import (
	_ "embed"
	"fmt"
	"strings"

	"github.com/google/uuid"
	pb "github.com/grantlog/grantlog/proto/grantlog/v1"
	"google.golang.org/protobuf/types/known/structpb"
)

// companyModel is the authorization model of the sample company.
//
//go:embed company.fga
var companyModel string

// The sample company is made by arithmetic, so that it is the same every time: the
// same tuples, in the same commands, under the same ids. Loading it into a directory
// that has it already therefore changes nothing.

// people is how many work there: user:u001 to user:u300.
const people = 300

// companyGroups is the groups by name, each indented below the group it is part of.
const companyGroups = `
everyone
  engineering
    platform
      compute
      network
      storage
      identity
    commerce
      catalog
      checkout
      payments
      pricing
    clients
      web
      mobile
  data
    ingestion
    warehouse
    recommenders
  security
    response
    audit
  operations
    reliability
    support
      support-day
      support-night
  product
    design
    research
  business
    finance
      payroll
      treasury
    personnel
    legal
    sales
      sales-north
      sales-south
    facilities
`

// companyServices is the services, each with the group that owns it.
var companyServices = [][2]string{
	{"catalog-api", "catalog"}, {"search", "catalog"}, {"cart", "checkout"}, {"checkout", "checkout"},
	{"payments", "payments"}, {"invoices", "payments"}, {"prices", "pricing"}, {"discounts", "pricing"},
	{"web-shop", "web"}, {"app-gateway", "mobile"}, {"accounts", "identity"}, {"login", "identity"},
	{"scheduler", "compute"}, {"edge-proxy", "network"}, {"object-store", "storage"}, {"importer", "ingestion"},
	{"reports", "warehouse"}, {"suggestions", "recommenders"}, {"alerts", "reliability"}, {"helpdesk", "support"},
}

// An order is one command of the sample: grants that belong together, and why.
type order struct {
	actor, reason, ticket string
	changes               []*pb.Change
}

// grant adds a grant of relation on object to subject.
func (o *order) grant(subject, relation, object string) { o.add(subject, relation, object, "", nil) }

func (o *order) add(subject, relation, object, condition string, context map[string]any) {
	t, err := readTuple([]string{subject, relation, object})
	if err != nil {
		panic(err) // the sample is wrong
	}
	g := &pb.Grant{Tuple: t, Condition: condition}
	if context != nil {
		if g.Context, err = structpb.NewStruct(context); err != nil {
			panic(err)
		}
	}
	o.changes = append(o.changes, &pb.Change{Change: &pb.Change_Grant{Grant: g}})
}

// person returns one of the people, spread evenly over n = 0, 1, 2 …
func person(n int) string { return fmt.Sprintf("user:u%03d", n*37%people+1) }

func members(group string) string { return "group:" + group + "#member" }

// A companyGroup is one line of companyGroups.
type companyGroup struct {
	name, within string
	leaf         bool // no group is part of it: the people are in these
}

func readGroups() (groups []companyGroup) {
	var above []string // the group at each depth
	for line := range strings.Lines(strings.TrimPrefix(companyGroups, "\n")) {
		name := strings.TrimSpace(line)
		depth := strings.Index(line, name) / 2
		above = append(above[:depth], name)
		g := companyGroup{name: name, leaf: true}
		if depth > 0 {
			g.within = above[depth-1]
			for i := range groups {
				if groups[i].name == g.within {
					groups[i].leaf = false
				}
			}
		}
		groups = append(groups, g)
	}
	return groups
}

// company returns the orders that make the sample, in order.
func company() (orders []*order) {
	begin := func(actor, ticket, reason string, args ...any) *order {
		o := &order{actor: actor, ticket: ticket, reason: fmt.Sprintf(reason, args...)}
		orders = append(orders, o)
		return o
	}
	groups := readGroups()
	inLeaf := make(map[string][]string) // people by leaf group
	var leaves []string
	for _, g := range groups {
		if g.leaf {
			leaves = append(leaves, g.name)
		}
	}
	for n := range people {
		leaf := leaves[n%len(leaves)]
		inLeaf[leaf] = append(inLeaf[leaf], fmt.Sprintf("user:u%03d", n+1))
	}
	for i, g := range groups {
		o := begin("personnel-sync", fmt.Sprintf("ORG-%d", 100+i), "the group %s, as of this quarter", g.name)
		o.grant(person(i), "manager", "group:"+g.name)
		if g.within != "" {
			o.grant(members(g.name), "member", "group:"+g.within)
		}
		for _, p := range inLeaf[g.name] {
			o.grant(p, "member", "group:"+g.name)
		}
	}
	for i, s := range companyServices {
		serviceOrders(begin, i, s[0], s[1])
	}
	for i, g := range groups {
		folderOrder(begin, i, g)
	}
	return orders
}

// serviceOrders are for what belongs to one service.
func serviceOrders(begin func(actor, ticket, reason string, args ...any) *order, i int, name, owner string) {
	service := "service:" + name
	o := begin("platform-bot", fmt.Sprintf("SVC-%d", 200+i), "the service %s is owned by %s", name, owner)
	o.grant(members(owner), "owner", service)
	o.grant("user:*", "viewer", service)
	for n := range 4 {
		o.grant(person(40+4*i+n), "oncall", service)
	}
	for r, repository := range []string{name, name + "-config", name + "-docs"} {
		object := "repository:" + repository
		o := begin("platform-bot", fmt.Sprintf("REPO-%d", 300+3*i+r), "the repository %s", repository)
		o.grant(service, "service", object)
		o.grant(members("security"), "reader", object)
		if r == 2 {
			o.grant("user:*", "reader", object)
		}
		for n := range 8 {
			o.grant(person(17*i+5*r+n), "reader", object)
		}
		o.grant(person(60+3*i+r), "writer", object)
		o.grant(person(90+3*i+r), "blocked", object)
	}
	for e, stage := range []string{"dev", "test", "prod"} {
		environment := "environment:" + name + "-" + stage
		o := begin("platform-bot", fmt.Sprintf("ENV-%d", 400+3*i+e), "the environment %s-%s with its databases and secrets", name, stage)
		o.grant(service, "service", environment)
		o.grant(members("reliability"), "deployer", environment)
		if stage == "prod" {
			o.grant(members("reliability"), "trained", environment)
			for n := range 12 {
				o.grant(person(120+12*i+n), "trained", environment)
			}
		}
		o.grant(members("engineering"), "trained", environment)
		for _, database := range []string{"main", "stats"} {
			object := "database:" + name + "-" + stage + "-" + database
			o.grant(environment, "environment", object)
			o.grant(members("storage"), "admin", object)
			o.add(members("warehouse"), "reader", object, "office_network", map[string]any{"network": "10.20.0.0/16"})
			for n := range 3 {
				o.grant(person(7*i+50*e+n), "reader", object)
			}
		}
		for _, secret := range []string{"db-password", "signing-key"} {
			object := "secret:" + name + "-" + stage + "-" + secret
			o.grant(environment, "environment", object)
			o.grant(service, "holder", object)
		}
	}
}

// folderOrder is for the folder of one group and the documents in it.
func folderOrder(begin func(actor, ticket, reason string, args ...any) *order, i int, g companyGroup) {
	folder := "folder:" + g.name
	o := begin(strings.TrimPrefix(person(i), "user:"), fmt.Sprintf("DOC-%d", 500+i), "the folder of %s, moved from the old file share", g.name)
	o.grant(members(g.name), "editor", folder)
	if g.within != "" {
		o.grant("folder:"+g.within, "parent", folder)
	}
	if g.name == "research" {
		o.grant("user:*", "viewer", folder)
	}
	for n := range 15 {
		document := fmt.Sprintf("document:%s-%02d", g.name, n+1)
		o.grant(folder, "folder", document)
		o.grant(person(15*i+n), "owner", document)
		o.grant(person(15*i+n+101), "viewer", document)
		if n%5 == 0 {
			o.grant(person(15*i+n+202), "suspended", document)
		}
	}
}

// sampleID returns the id of the named command of the sample, the same every time.
func sampleID(name string) string {
	return uuid.NewSHA1(uuid.NameSpaceOID, []byte("grantlog sample company: "+name)).String()
}

// sampleTuples counts the tuples that the orders grant.
func sampleTuples(orders []*order) int {
	granted := make(map[string]bool)
	for _, o := range orders {
		for _, c := range o.changes {
			granted[said(c.GetGrant().GetTuple())] = true
		}
	}
	return len(granted)
}
