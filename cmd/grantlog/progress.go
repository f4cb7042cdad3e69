package main

import (
	"fmt"
	"io"
	"os"
	"time"
)

// A progress tells on a terminal how far something long has come. Nil tells nothing.
type progress struct {
	to   io.Writer
	last time.Time
	told bool
}

// newProgress returns a progress on a terminal, nil on anything else.
func newProgress(to io.Writer) *progress {
	f, ok := to.(*os.File)
	if !ok {
		return nil
	}
	info, err := f.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return nil
	}
	return &progress{to: to}
}

// say replaces what was told last, a few times a second at most.
func (p *progress) say(format string, args ...any) {
	if p == nil || time.Since(p.last) < 200*time.Millisecond {
		return
	}
	p.last, p.told = time.Now(), true
	fmt.Fprintf(p.to, "\r"+format+"\x1b[K", args...)
}

// now is say for what must not be passed over, because nothing follows for long.
func (p *progress) now(format string, args ...any) {
	if p != nil {
		p.last = time.Time{}
		p.say(format, args...)
	}
}

// end takes away what was told.
func (p *progress) end() {
	if p != nil && p.told {
		fmt.Fprint(p.to, "\r\x1b[K")
	}
}
