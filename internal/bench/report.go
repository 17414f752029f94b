package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
)

// Report is one whole run, as it is kept.
type Report struct {
	Version  string  `json:"version"` // of the relay
	Machine  string  `json:"machine"`
	Settings string  `json:"settings"`
	Phases   []Phase `json:"phases"`
	Limits   []Limit `json:"limits"`
}

// Write keeps a report in a file.
func (r *Report) Write(path string) error {
	raw, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("keeping the report: %w", err)
	}
	if err := os.WriteFile(path, append(raw, '\n'), 0o644); err != nil { //nolint:gosec // figures are for everybody
		return fmt.Errorf("keeping the report: %w", err)
	}
	return nil
}

// ReadReport reads what Write kept.
func ReadReport(path string) (*Report, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading a kept report: %w", err)
	}
	r := &Report{}
	if err := json.Unmarshal(raw, r); err != nil {
		return nil, fmt.Errorf("reading a kept report: %w", err)
	}
	return r, nil
}

// Compare writes what changed since a kept report, phase by phase.
func (r *Report) Compare(w io.Writer, kept *Report) {
	fmt.Fprintf(w, "\nagainst %s on %s:\n", kept.Version, kept.Machine)
	before := map[string]Phase{}
	for _, p := range kept.Phases {
		before[p.Name] = p
	}
	for _, now := range r.Phases {
		old, ok := before[now.Name]
		if !ok {
			continue // the half-load phase is named by its rate
		}
		fmt.Fprintf(w, "%-36s accepted %s  resumed %s  CPU %s  WAL %s  resume p99 %s\n", now.Name,
			change(old.Accepted, now.Accepted), change(old.Resumed, now.Resumed),
			change(old.RelayCPU+old.PostgresCPU, now.RelayCPU+now.PostgresCPU), change(old.WAL, now.WAL),
			change(old.ResumeP99, now.ResumeP99))
	}
}

// change writes by how much a figure differs from what it was.
func change(before, now float64) string {
	if before == 0 || math.IsNaN(now) {
		return "     -"
	}
	return fmt.Sprintf("%+5.0f%%", (now/before-1)*100)
}
