package openfga

import (
	"crypto/sha256"
	"encoding/base64"
	"strings"

	"github.com/grantlog/grantlog/ledger/wire"
	openfgav1 "github.com/openfga/api/proto/openfga/v1"
)

// A place is a list that has pages: what a continuation token says of it, so that one of
// another list is told from one's own.
type place [16]byte

// place returns the list of a log that its kind and what was asked name.
func (s *Service) place(kind string, asked ...string) place {
	log := s.cfg.Projector.Index().Position().Log
	b := wire.AppendBytes(log[:], kind)
	for _, text := range asked {
		b = wire.AppendBytes(b, text)
	}
	sum := sha256.Sum256(b)
	return place(sum[:16])
}

const (
	tokenFormat = 1
	tokenCheck  = 8 // bytes of the checksum
)

// errToken is the answer to a continuation token that is none of the list's.
var errToken = errorf(openfgav1.ErrorCode_invalid_continuation_token, "continuation_token: must be one that an answer to the same question gave")

// token returns the token of the page after an item, as URL-safe text:
//
//	base64url( format 1 | place 16 | after | check 8 )
//
// Check is the first bytes of the SHA-256 of all that stands before it. It is against
// accidents: the token holds no secret and grants nothing.
func (p place) token(after string) string {
	b := append([]byte{tokenFormat}, p[:]...)
	b = append(b, after...)
	sum := sha256.Sum256(b)
	return base64.RawURLEncoding.EncodeToString(append(b, sum[:tokenCheck]...))
}

// read returns the item after which a page begins: "" for a first page, which has no
// token.
func (p place) read(token string) (after string, err error) {
	if token == "" {
		return "", nil
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(strings.TrimRight(token, "="))
	if err != nil || len(b) <= 1+len(p)+tokenCheck || b[0] != tokenFormat || place(b[1:1+len(p)]) != p {
		return "", errToken
	}
	b, check := b[:len(b)-tokenCheck], b[len(b)-tokenCheck:]
	if sum := sha256.Sum256(b); string(sum[:tokenCheck]) != string(check) {
		return "", errToken
	}
	return string(b[1+len(p):]), nil
}
