package natslog

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/grantlog/grantlog/ledger"
)

// metadataLog is the stream metadata key of the log id.
const metadataLog = "grantlog.log"

// pinned returns the configuration of the stream of a shard, as JetStream's API names
// its fields; every other field is off (false, 0, empty) and must stay so. Number of
// replicas and metadata (the log id) are added when a log is created or opened.
//
// allow_direct is off so that the stream's leader answers for a message: with it a
// follower may, which may be behind. duplicate_window is the shortest there is,
// because a message id lets one publisher swallow the message of another.
func pinned(shard string) map[string]any {
	return map[string]any{
		"name":                 streamName(shard),
		"subjects":             []string{"grantlog." + shard + ".>"},
		"retention":            "limits",
		"storage":              "file",
		"discard":              "new",
		"compression":          "none",
		"max_consumers":        -1,
		"max_msgs":             -1,
		"max_bytes":            -1,
		"max_msgs_per_subject": -1,
		"max_msg_size":         ledger.MaxMessage,
		"duplicate_window":     100 * time.Millisecond,
		"deny_delete":          true,
		"deny_purge":           true,
	}
}

// configHash is what the genesis records of [pinned]: the SHA-256 of its JSON, with
// keys in byte order and no space.
func configHash(config map[string]any) ledger.Hash {
	text, err := json.Marshal(config)
	if err != nil {
		panic(err) // of strings, numbers and lists of them
	}
	return sha256.Sum256(text)
}

// compareConfig returns a [ledger.ErrDrift] that names every field in which the live
// configuration is not the wanted one.
func compareConfig(live map[string]json.RawMessage, want map[string]any) error {
	var drifts []string
	for _, field := range slices.Sorted(maps.Keys(live)) {
		got := live[field]
		wanted, pinned := want[field]
		switch {
		case field == "metadata":
			got = withoutServerMetadata(got)
			fallthrough
		case pinned:
			if text, err := json.Marshal(wanted); err != nil || !sameJSON(got, text) {
				drifts = append(drifts, fmt.Sprintf("%s is %s, pinned is %s", field, got, text))
			}
		case !off(got):
			drifts = append(drifts, fmt.Sprintf("%s is %s, pinned is off", field, got))
		}
	}
	for _, field := range slices.Sorted(maps.Keys(want)) {
		if _, there := live[field]; !there {
			text, _ := json.Marshal(want[field])
			drifts = append(drifts, fmt.Sprintf("%s is off, pinned is %s", field, text))
		}
	}
	if drifts != nil {
		return fmt.Errorf("%w: %s", ledger.ErrDrift, strings.Join(drifts, "; "))
	}
	return nil
}

// off reports whether a field has the value that switches it off.
func off(value json.RawMessage) bool {
	switch string(bytes.TrimSpace(value)) {
	case "null", "false", "0", `""`, "[]", "{}":
		return true
	}
	return false
}

// sameJSON reports whether a and b are the same value, whatever the order of keys.
func sameJSON(a, b []byte) bool {
	canonical := func(text []byte) []byte {
		d := json.NewDecoder(bytes.NewReader(text))
		d.UseNumber()
		var v any
		if d.Decode(&v) != nil {
			return nil
		}
		out, _ := json.Marshal(v) // of what was decoded
		return out
	}
	ca := canonical(a)
	return ca != nil && bytes.Equal(ca, canonical(b))
}

// withoutServerMetadata drops the keys that servers add by themselves, such as their version.
func withoutServerMetadata(text json.RawMessage) json.RawMessage {
	var metadata map[string]string
	if json.Unmarshal(text, &metadata) != nil {
		return text
	}
	maps.DeleteFunc(metadata, func(key, _ string) bool { return strings.HasPrefix(key, "_nats.") })
	out, err := json.Marshal(metadata)
	if err != nil {
		return text
	}
	return out
}
