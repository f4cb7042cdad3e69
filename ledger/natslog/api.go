package natslog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/grantlog/grantlog/ledger"
	"github.com/nats-io/nats.go"
)

// An apiError is an error that JetStream answers.
type apiError struct {
	Status      int    `json:"code"`
	Code        int    `json:"err_code"`
	Description string `json:"description"`
}

func (e *apiError) Error() string {
	return fmt.Sprintf("%s (JetStream error %d)", e.Description, e.Code)
}

// Error codes of JetStream that mean something here.
const (
	codeNotNow    = 10008
	codeNoMessage = 10037
	codeNoStream  = 10059
)

// request asks JetStream's API, perhaps several times; so what it asks for must come to
// the same if it is done twice. Body and answer are JSON; the answer may be nil.
// Spoken to directly the API shows the stream's configuration as the server has it,
// fields this program never heard of among them.
func (l *Log) request(ctx context.Context, subject string, body, answer any) error {
	subject = "$JS.API." + subject
	var data []byte
	if body != nil {
		var err error
		if data, err = json.Marshal(body); err != nil {
			return err
		}
	}
	ctx, done, err := l.begin(ctx, subject)
	if err != nil {
		return err
	}
	defer done()
	for {
		// During an election nobody answers, or somebody that it is no time to ask.
		attempt, cancel := context.WithTimeout(ctx, silence)
		err = l.ask(attempt, subject, data, answer)
		cancel()
		var e *apiError
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return fmt.Errorf("no answer from the log: %w", context.Cause(ctx))
		case errors.Is(err, context.DeadlineExceeded):
		case errors.As(err, &e) && e.Code == codeNotNow:
			time.Sleep(silence / 20)
		default:
			return err
		}
	}
}

// ask asks JetStream's API once.
func (l *Log) ask(ctx context.Context, subject string, data []byte, answer any) error {
	reply, err := l.nc.RequestWithContext(ctx, subject, data)
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return fmt.Errorf("the broker has no JetStream, or not now: %w", ledger.ErrUnavailable)
	case err != nil:
		return fmt.Errorf("no answer from the log: %w", err)
	}
	var failed struct {
		Error *apiError `json:"error"`
	}
	if err := json.Unmarshal(reply.Data, &failed); err != nil {
		return fmt.Errorf("the answer to %s: %w", subject, err)
	}
	if e := failed.Error; e != nil && e.Code == codeNoStream {
		return fmt.Errorf("%w: there is no stream %s", ledger.ErrMissing, l.stream)
	} else if e != nil {
		return e
	}
	if answer == nil {
		return nil
	}
	if err := json.Unmarshal(reply.Data, answer); err != nil {
		return fmt.Errorf("the answer to %s: %w", subject, err)
	}
	return nil
}

// settle asks again while the answer, of a replicated stream, looks like a loss: a
// leader that is cut off from the others answers for some seconds before it notices.
func (l *Log) settle(ctx context.Context, ask func() error, loss error) error {
	err := ask()
	if replicas, _ := l.config["num_replicas"].(int); replicas <= 1 {
		return err
	}
	for end := time.Now().Add(l.settling); errors.Is(err, loss) && time.Now().Before(end); err = ask() {
		select {
		case <-time.After(250 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return err
}

// A streamInfo is what JetStream says of the stream.
type streamInfo struct {
	Config map[string]json.RawMessage `json:"config"`
	State  struct {
		First uint64 `json:"first_seq"`
		Last  uint64 `json:"last_seq"`
	} `json:"state"`
	Cluster *struct {
		Leader   string `json:"leader"`
		Replicas []struct {
			Name string `json:"name"`
		} `json:"replicas"`
	} `json:"cluster"`
}

func (i *streamInfo) replicas() int {
	var n int
	json.Unmarshal(i.Config["num_replicas"], &n) // 0 if it is no number, which no log has
	return n
}

func (i *streamInfo) logID() string {
	var metadata map[string]string
	json.Unmarshal(i.Config["metadata"], &metadata) // without it there is no log id either
	return metadata[metadataLog]
}

func (l *Log) info(ctx context.Context) (*streamInfo, error) {
	var info streamInfo
	err := l.settle(ctx, func() error {
		info = streamInfo{}
		return l.request(ctx, "STREAM.INFO."+l.stream, nil, &info)
	}, ledger.ErrMissing)
	if err != nil {
		return nil, err
	}
	return &info, nil
}

// message returns the stored message that query names, or [ledger.ErrNotFound].
func (l *Log) message(ctx context.Context, query map[string]any) (ledger.Message, error) {
	var answer struct {
		Message struct {
			Subject string    `json:"subject"`
			Seq     uint64    `json:"seq"`
			Data    []byte    `json:"data"`
			Time    time.Time `json:"time"`
		} `json:"message"`
	}
	err := l.request(ctx, "STREAM.MSG.GET."+l.stream, query, &answer)
	var e *apiError
	if errors.As(err, &e) && e.Code == codeNoMessage {
		return ledger.Message{}, fmt.Errorf("message %v: %w", query, ledger.ErrNotFound)
	} else if err != nil {
		return ledger.Message{}, err
	}
	m := answer.Message
	return ledger.Message{Seq: m.Seq, Time: m.Time.UnixNano(), Subject: m.Subject, Data: m.Data}, nil
}
