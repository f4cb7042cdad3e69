package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/grantlog/grantlog/ledger/tuple"
	pb "github.com/grantlog/grantlog/proto/grantlog/v1"
	"github.com/spf13/pflag"
)

// An entryFlags is what flags say about which entries are wanted.
type entryFlags struct {
	actor, ticket, subject, object, typ, relation string
	kinds, outcomes, channels, outside            []string
	withoutTicket                                 bool
}

func (e *entryFlags) flags(f *pflag.FlagSet) {
	f.StringVar(&e.actor, "actor", "", "only what this `actor` asked for")
	f.StringVar(&e.ticket, "ticket", "", "only what was asked for under this `ticket`")
	f.BoolVar(&e.withoutTicket, "without-ticket", false, "only what was asked for without a ticket")
	f.StringVar(&e.subject, "subject", "", "only grants to and revokes from this `subject`")
	f.StringVar(&e.object, "object", "", "only grants and revokes on this `object`")
	f.StringVar(&e.typ, "type", "", "only grants and revokes on objects of this `type`")
	f.StringVar(&e.relation, "relation", "", "only grants and revokes of this `relation`")
	f.StringSliceVar(&e.kinds, "kind", nil, "only changes of this `kind`: "+strings.Join(enumNames(pb.EntryFilter_Kind_name), ", ")+"; may be given again")
	f.StringSliceVar(&e.outcomes, "outcome", nil, "only commands with this `outcome`: "+strings.Join(enumNames(pb.Outcome_Kind_name), ", ")+"; may be given again")
	f.StringArrayVar(&e.channels, "channel", nil, "only what came through this `channel`; may be given again")
	f.StringArrayVar(&e.outside, "outside-channel", nil, "only what did not come through this `channel`; may be given again")
}

func (e *entryFlags) filter() (*pb.EntryFilter, error) {
	if e.ticket != "" && e.withoutTicket {
		return nil, errors.New("--ticket and --without-ticket exclude each other")
	}
	f := &pb.EntryFilter{
		Actor: e.actor, Ticket: e.ticket, WithoutTicket: e.withoutTicket, Subject: e.subject, Object: e.object,
		Type: e.typ, Relation: e.relation, Channels: e.channels, OutsideChannels: e.outside,
	}
	if e.subject != "" {
		if _, err := tuple.ParseSubject(e.subject); err != nil {
			return nil, fmt.Errorf("--subject: %w", err)
		}
	}
	if e.object != "" {
		if _, err := tuple.ParseObject(e.object); err != nil {
			return nil, fmt.Errorf("--object: %w", err)
		}
	}
	var err error
	if f.Kinds, err = readEnum[pb.EntryFilter_Kind]("--kind", e.kinds, pb.EntryFilter_Kind_name, pb.EntryFilter_Kind_value); err != nil {
		return nil, err
	}
	if f.Outcomes, err = readEnum[pb.Outcome_Kind]("--outcome", e.outcomes, pb.Outcome_Kind_name, pb.Outcome_Kind_value); err != nil {
		return nil, err
	}
	return f, nil
}

// enumNames returns the names of an enumeration as flags have them, without the first,
// which is no value.
func enumNames(names map[int32]string) (list []string) {
	for n := int32(1); names[n] != ""; n++ {
		list = append(list, strings.ReplaceAll(strings.ToLower(names[n]), "_", "-"))
	}
	return list
}

func readEnum[E ~int32](flag string, texts []string, names map[int32]string, values map[string]int32) (list []E, err error) {
	for _, text := range texts {
		v := values[strings.ReplaceAll(strings.ToUpper(text), "-", "_")]
		if v == 0 {
			return nil, fmt.Errorf("%s must be one of %s, not %q", flag, strings.Join(enumNames(names), ", "), text)
		}
		list = append(list, E(v))
	}
	return list, nil
}
