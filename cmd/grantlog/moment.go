package main

import (
	"fmt"
	"strconv"
	"time"

	"github.com/grantlog/grantlog/ledger"
	pb "github.com/grantlog/grantlog/proto/grantlog/v1"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// momentForms says, in help texts, how a moment is written.
const momentForms = `A moment is a revision (4711), a time (2026-11-01T17:30:00Z, 2026-11-01T17:30:00+01:00),
a date (2026-11-01: the beginning of that day in UTC), or the token of an answer.`

// readPast reads a moment of a store's past: a revision, a time, a date or a token.
func readPast(text string) (*pb.Freshness, error) {
	if rev, err := strconv.ParseUint(text, 10, 64); err == nil {
		if rev == 0 {
			return nil, fmt.Errorf("revisions begin at 1")
		}
		return &pb.Freshness{Freshness: &pb.Freshness_AtRevision{AtRevision: rev}}, nil
	}
	for _, layout := range []string{time.RFC3339Nano, time.DateOnly} {
		if at, err := time.Parse(layout, text); err == nil {
			m := timestamppb.New(at)
			if err := m.CheckValid(); err != nil {
				return nil, fmt.Errorf("%q: %w", text, err)
			}
			return &pb.Freshness{Freshness: &pb.Freshness_AtTime{AtTime: m}}, nil
		}
	}
	if _, err := ledger.ParseToken(text); err == nil {
		return &pb.Freshness{Freshness: &pb.Freshness_AtToken{AtToken: text}}, nil
	}
	return nil, fmt.Errorf("%q is no moment: give a revision, a time such as 2026-11-01T17:30:00Z, a date such as 2026-11-01, or a token", text)
}
