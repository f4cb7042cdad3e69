package openfga

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/grantlog/grantlog/ledger/model"
	openfgav1 "github.com/openfga/api/proto/openfga/v1"
)

// Expand answers with the rule of a relation on an object as a tree, one level deep: who
// was granted it, and what else it is computed from. Grants whose condition cannot be
// decided without the context of a question are on it, as they may count.
func (s *Service) Expand(ctx context.Context, req *openfgav1.ExpandRequest) (answer *openfgav1.ExpandResponse, err error) {
	began := time.Now()
	defer func() { s.cfg.Listed("tree", false, err, time.Since(began)) }()
	key := req.GetTupleKey()
	for _, part := range [...][2]string{{"object", key.GetObject()}, {"relation", key.GetRelation()}} {
		if part[1] == "" {
			return nil, errorf(openfgav1.ErrorCode_invalid_expand_input, "tuple_key.%s: must not be empty", part[0])
		}
	}
	object, err := readObject("tuple_key.object", key.GetObject())
	if err != nil {
		return nil, err
	}
	given, err := asCheck.readGiven(req.GetContextualTuples().GetTupleKeys(), nil)
	if err != nil {
		return nil, err
	}
	a, err := s.ask(ctx, req)
	if err != nil {
		return nil, err
	}
	defer a.close()
	tree, err := a.Expand(ctx, object, key.GetRelation(), 1, given)
	if err != nil {
		return nil, asCheck.questionError(err)
	}
	return &openfgav1.ExpandResponse{Tree: &openfgav1.UsersetTree{Root: treeNode(tree)}}, nil
}

func treeNode(t *model.Tree) *openfgav1.UsersetTree_Node {
	n := &openfgav1.UsersetTree_Node{Name: t.Object.String() + "#" + t.Relation}
	switch t.Op {
	case model.This:
		users := make([]string, len(t.Grants))
		for i := range t.Grants {
			users[i] = t.Grants[i].Tuple.Subject.String()
		}
		slices.Sort(users)
		n.Value = leaf(&openfgav1.UsersetTree_Leaf{Value: &openfgav1.UsersetTree_Leaf_Users{Users: &openfgav1.UsersetTree_Users{Users: users}}})
	case model.Computed:
		n.Value = leaf(&openfgav1.UsersetTree_Leaf{Value: &openfgav1.UsersetTree_Leaf_Computed{
			Computed: &openfgav1.UsersetTree_Computed{Userset: t.Object.String() + "#" + t.Rule}}})
	case model.From:
		relation, tupleset, _ := strings.Cut(t.Rule, " from ")
		from := &openfgav1.UsersetTree_TupleToUserset{Tupleset: t.Object.String() + "#" + tupleset}
		for i := range t.Grants {
			from.Computed = append(from.Computed, &openfgav1.UsersetTree_Computed{Userset: t.Grants[i].Tuple.Subject.Object().String() + "#" + relation})
		}
		n.Value = leaf(&openfgav1.UsersetTree_Leaf{Value: &openfgav1.UsersetTree_Leaf_TupleToUserset{TupleToUserset: from}})
	case model.Union:
		n.Value = &openfgav1.UsersetTree_Node_Union{Union: treeNodes(t.Branches)}
	case model.Intersect:
		n.Value = &openfgav1.UsersetTree_Node_Intersection{Intersection: treeNodes(t.Branches)}
	case model.Exclude:
		n.Value = &openfgav1.UsersetTree_Node_Difference{
			Difference: &openfgav1.UsersetTree_Difference{Base: treeNode(t.Branches[0]), Subtract: treeNode(t.Branches[1])}}
	}
	return n
}

func leaf(l *openfgav1.UsersetTree_Leaf) *openfgav1.UsersetTree_Node_Leaf {
	return &openfgav1.UsersetTree_Node_Leaf{Leaf: l}
}

func treeNodes(branches []*model.Tree) *openfgav1.UsersetTree_Nodes {
	nodes := &openfgav1.UsersetTree_Nodes{}
	for _, b := range branches {
		nodes.Nodes = append(nodes.Nodes, treeNode(b))
	}
	return nodes
}
