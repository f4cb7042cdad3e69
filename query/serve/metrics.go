package serve

import (
	"errors"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/grantlog/grantlog/ledger"
	"github.com/grantlog/grantlog/projector"
	"github.com/grantlog/grantlog/query/audit"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Metrics is what a replica counts, for Prometheus. Its methods Appended and Decided
// are made for [ledger.Config] and [projector.Config].
type Metrics struct {
	registry  *prometheus.Registry
	projector atomic.Pointer[projector.Projector] // set once there is a server

	commands         *prometheus.CounterVec
	checks           [checkResults]prometheus.Observer
	lists            *prometheus.HistogramVec
	checkpoints      *prometheus.CounterVec
	envelopeBytes    prometheus.Histogram
	envelopeCommands prometheus.Histogram
}

// The results of a check.
const (
	checkAllowed = iota
	checkDenied
	checkFailed
	checkResults
)

// NewMetrics returns Metrics in a registry of their own, with those of the process.
func NewMetrics() *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		commands: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "grantlog_commands_total",
			Help: "Commands decided by this replica's fold since it started, by outcome.",
		}, []string{"outcome"}),
		envelopeBytes: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "grantlog_envelope_bytes",
			Help:    "Sizes of the envelopes that this node appended to the log, in bytes.",
			Buckets: prometheus.ExponentialBuckets(64, 4, 8), // 64 B to 1 MiB
		}),
		envelopeCommands: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "grantlog_envelope_commands",
			Help:    "Commands of each envelope that this node appended to the log.",
			Buckets: prometheus.ExponentialBuckets(1, 2, 11), // 1 to 1024
		}),
	}
	checks := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "grantlog_check_seconds",
		Help:    "Time to answer a check, one of a batch too, by result: allowed, denied or error. The count is the checks.",
		Buckets: prometheus.ExponentialBuckets(2e-6, 2.5, 14), // 2 µs to 0.3 s
	}, []string{"result"})
	m.lists = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "grantlog_list_seconds",
		Help:    "Time to answer a list, its sending included, by what it is of (objects, subjects, relations, tuples, tree, or report) and by result: whole (all that was asked for), cut (at OpenFGA's limit or deadline of lists) or error.",
		Buckets: prometheus.ExponentialBuckets(2e-5, 4, 11), // 20 µs to 21 s
	}, []string{"of", "result"})
	for result, name := range [...]string{checkAllowed: "allowed", checkDenied: "denied", checkFailed: "error"} {
		m.checks[result] = checks.WithLabelValues(name)
	}
	for _, kind := range []ledger.OutcomeKind{ledger.Applied, ledger.Rejected, ledger.Duplicate} {
		m.commands.WithLabelValues(kind.String()) // there from the start, at 0
	}
	m.checkpoints = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "grantlog_checkpoints_total",
		Help: "Checkpoints asked of this replica's signing key, by result: signed, refused (what it signed before does not fit), or error.",
	}, []string{"result"})
	for _, result := range []string{"signed", "refused", "error"} {
		m.checkpoints.WithLabelValues(result)
	}
	m.registry.MustRegister(m.commands, checks, m.lists, m.checkpoints, m.envelopeBytes, m.envelopeCommands, statusCollector{m},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), collectors.NewBuildInfoCollector())
	return m
}

// Decided counts n commands of one outcome, as [projector.Config] asks.
func (m *Metrics) Decided(kind ledger.OutcomeKind, n int) {
	m.commands.WithLabelValues(kind.String()).Add(float64(n))
}

// Appended counts an envelope, as [ledger.Config] asks.
func (m *Metrics) Appended(bytes, commands int) {
	m.envelopeBytes.Observe(float64(bytes))
	m.envelopeCommands.Observe(float64(commands))
}

func (m *Metrics) check(allowed bool, err error, took time.Duration) {
	result := checkDenied
	switch {
	case err != nil:
		result = checkFailed
	case allowed:
		result = checkAllowed
	}
	m.checks[result].Observe(took.Seconds())
}

func (m *Metrics) list(of string, err error, took time.Duration) {
	m.listOrCut(of, false, err, took)
}

func (m *Metrics) listOrCut(of string, cut bool, err error, took time.Duration) {
	result := "whole"
	switch {
	case err != nil:
		result = "error"
	case cut:
		result = "cut"
	}
	m.lists.WithLabelValues(of, result).Observe(took.Seconds())
}

func (m *Metrics) checkpoint(err error) {
	result := "signed"
	switch {
	case errors.Is(err, audit.ErrOtherPast), errors.Is(err, audit.ErrSigned):
		result = "refused"
	case err != nil:
		result = "error"
	}
	m.checkpoints.WithLabelValues(result).Inc()
}

func (m *Metrics) watch(p *projector.Projector) { m.projector.Store(p) }

func (m *Metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// Where the replica stands is asked when the metrics are.
var (
	headDesc        = prometheus.NewDesc("grantlog_log_head", "Sequence of the newest message known to be in the log.", nil, nil)
	appliedDesc     = prometheus.NewDesc("grantlog_log_applied", "Sequence of the newest message folded by this replica.", nil, nil)
	lagDesc         = prometheus.NewDesc("grantlog_lag_messages", "Messages of the log that this replica has not folded yet; each holds one or more entries.", nil, nil)
	lagSecondsDesc  = prometheus.NewDesc("grantlog_lag_seconds", "Age of the newest folded message, if there are newer ones.", nil, nil)
	connectedDesc   = prometheus.NewDesc("grantlog_log_connected", "1 while this replica reads the log.", nil, nil)
	quarantinedDesc = prometheus.NewDesc("grantlog_quarantined", "1 if this replica answers nothing until an operator decides.", nil, nil)
	lowSpaceDesc    = prometheus.NewDesc("grantlog_low_space", "1 while commands and the fold wait for disk space.", nil, nil)
	epochDesc       = prometheus.NewDesc("grantlog_epoch", "Losses of the log that operators have accepted.", nil, nil)
)

type statusCollector struct{ metrics *Metrics }

// Describe names the metrics of a replica's status.
func (c statusCollector) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{headDesc, appliedDesc, lagDesc, lagSecondsDesc, connectedDesc, quarantinedDesc, lowSpaceDesc, epochDesc} {
		to <- d
	}
}

// Collect reads the replica's status.
func (c statusCollector) Collect(to chan<- prometheus.Metric) {
	p := c.metrics.projector.Load()
	if p == nil {
		return
	}
	st := p.Status()
	gauge := func(d *prometheus.Desc, v float64) { to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v) }
	flag := func(d *prometheus.Desc, set bool) {
		v := 0.0
		if set {
			v = 1
		}
		gauge(d, v)
	}
	gauge(headDesc, float64(st.Head))
	gauge(appliedDesc, float64(st.Applied))
	gauge(lagDesc, float64(max(st.Head, st.Applied)-st.Applied))
	gauge(lagSecondsDesc, st.Lag.Seconds())
	flag(connectedDesc, st.Connected)
	flag(quarantinedDesc, st.Quarantined != nil)
	flag(lowSpaceDesc, st.NoSpace)
	gauge(epochDesc, float64(st.Epoch))
}
