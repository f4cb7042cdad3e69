package main

import (
	"errors"
	"fmt"
	"strings"

	pb "github.com/grantlog/grantlog/proto/grantlog/v1"
	"github.com/spf13/pflag"
	"google.golang.org/protobuf/types/known/structpb"
)

// A given is what the flags of a question add to what is granted, and how new the answer
// must be.
type given struct {
	context    string
	contextual []string
	atLeast    string
	latest     bool
	at         string
	model      string
}

func (g *given) flags(f *pflag.FlagSet) {
	contextFlag(f, &g.context)
	f.StringArrayVar(&g.contextual, "contextual", nil, "a `tuple` that counts as granted for this question, \"SUBJECT RELATION OBJECT\", perhaps \"… with CONDITION JSON\"; may be given again")
	g.freshFlags(f)
}

func contextFlag(f *pflag.FlagSet, context *string) {
	f.StringVar(context, "context", "", "values for the parameters of conditions, a `JSON` object")
}

// freshFlags are those of questions that take no context.
func (g *given) freshFlags(f *pflag.FlagSet) {
	g.momentFlags(f)
	f.StringVar(&g.model, "model", "", "the `ID` of the model to answer under; the newest of that moment if not given")
}

// momentFlags are those of questions that no model is asked about.
func (g *given) momentFlags(f *pflag.FlagSet) {
	f.StringVar(&g.atLeast, "at-least", "", "answer at the revision of this `token` or a later one")
	f.BoolVar(&g.latest, "latest", false, "answer with all that was acknowledged before")
	f.StringVar(&g.at, "at", "", "answer as of this `moment` of the past: a revision, a time, a date or a token")
}

func (g *given) freshness() (*pb.Freshness, error) {
	switch {
	case g.at != "" && (g.latest || g.atLeast != ""):
		return nil, errors.New("--at excludes --latest and --at-least: the past does not get newer")
	case g.at != "":
		f, err := readPast(g.at)
		if err != nil {
			return nil, fmt.Errorf("--at: %w", err)
		}
		return f, nil
	case g.latest && g.atLeast != "":
		return nil, errors.New("--latest and --at-least exclude each other: the latest is at least as new as any token")
	case g.latest:
		return &pb.Freshness{Freshness: &pb.Freshness_Latest{Latest: true}}, nil
	case g.atLeast != "":
		return &pb.Freshness{Freshness: &pb.Freshness_AtLeast{AtLeast: g.atLeast}}, nil
	}
	return nil, nil
}

// read returns what the flags say.
func (g *given) read() (contextual []*pb.ContextualTuple, context *structpb.Struct, fresh *pb.Freshness, err error) {
	if context, err = readContext(g.context); err != nil {
		return nil, nil, nil, err
	}
	for _, text := range g.contextual {
		c, err := readContextual(text)
		if err != nil {
			return nil, nil, nil, fmt.Errorf("--contextual: %w", err)
		}
		contextual = append(contextual, c)
	}
	fresh, err = g.freshness()
	return contextual, context, fresh, err
}

// readContextual reads a tuple, perhaps followed by "with", a condition, and JSON.
func readContextual(text string) (*pb.ContextualTuple, error) {
	text, with, conditional := strings.Cut(text, " with ")
	t, err := readTupleText(text)
	if err != nil {
		return nil, err
	}
	c := &pb.ContextualTuple{Tuple: t}
	if conditional {
		name, values, _ := strings.Cut(strings.TrimSpace(with), " ")
		c.Condition = name
		if c.Context, err = readContext(strings.TrimSpace(values)); err != nil {
			return nil, err
		}
	}
	return c, nil
}
