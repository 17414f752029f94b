package localpg

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	readyPoll   = 20 * time.Millisecond  // how often a starting server is asked
	adoptedPoll = 200 * time.Millisecond // how often an adopted one is looked at: it is no child to wait for
	inUsePoll   = 200 * time.Millisecond // how often a start is tried while the last server's sessions end
	inUseLimit  = 30 * time.Second       // and for how long
	quitLimit   = 10 * time.Second       // an immediate shutdown kills its own sessions after 5 s
)

// stillInUse is how PostgreSQL refuses to start while sessions of a killed
// server still run on the same data.
const stillInUse = "is still in use"

const pidName = clusterName + "/postmaster.pid"

var (
	errNoSurvivor = errors.New("no server runs on the data directory")
	errInUse      = errors.New("sessions of the last server still run")
)

// process is a server process: our child, or one that we have adopted.
type process struct {
	os   *os.Process
	done chan struct{}
	why  error // why it ended; may be read once done is closed
}

func (p *process) pid() int { return p.os.Pid }

func (p *process) end(why error) {
	p.why = why
	close(p.done)
}

// stop shuts the server down: fast, at once when ctx ends, and if even that
// hangs by killing it.
func (p *process) stop(ctx context.Context) error {
	p.signal(syscall.SIGINT)
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
	}
	for _, sig := range []os.Signal{syscall.SIGQUIT, syscall.SIGKILL} {
		p.signal(sig)
		select {
		case <-p.done:
			return nil
		case <-time.After(quitLimit):
		}
	}
	return fmt.Errorf("stopping PostgreSQL: process %d does not end", p.pid())
}

// signal ignores errors: a process that has ended cannot be signalled, and
// whether it has ended is what the caller waits for.
func (p *process) signal(sig os.Signal) { _ = p.os.Signal(sig) }

// launch starts a server and returns when it accepts connections.
func (s *Server) launch(ctx context.Context) (*process, error) {
	giveUp := time.Now().Add(inUseLimit)
	for {
		proc, err := s.launchOnce(ctx)
		if !errors.Is(err, errInUse) || time.Now().After(giveUp) {
			return proc, err
		}
		if err := pause(ctx, inUsePoll); err != nil {
			return nil, err
		}
	}
}

func (s *Server) launchOnce(ctx context.Context) (*process, error) {
	if err := s.home.trimLog(); err != nil {
		return nil, fmt.Errorf("trimming PostgreSQL's log: %w", err)
	}
	log, err := s.home.openLog()
	if err != nil {
		return nil, fmt.Errorf("opening PostgreSQL's log: %w", err)
	}
	defer log.Close()
	info, err := log.Stat()
	if err != nil {
		return nil, fmt.Errorf("opening PostgreSQL's log: %w", err)
	}
	proc, err := s.spawn(ctx, log)
	if err != nil {
		return nil, err
	}
	if err := s.awaitReady(ctx, proc); err != nil {
		tail := s.home.logTail(info.Size())
		if bytes.Contains(tail, []byte(stillInUse)) {
			err = fmt.Errorf("%w: %w", errInUse, err)
		}
		return nil, fmt.Errorf("starting PostgreSQL %s in %s: %w%s", s.binaries.version, s.home.path, err, quote(tail))
	}
	return proc, nil
}

// spawn starts the server as a child that outlives ctx: Stop ends it.
func (s *Server) spawn(ctx context.Context, log *os.File) (*process, error) {
	cmd := exec.CommandContext(context.WithoutCancel(ctx), s.binaries.path("postgres"), s.arguments()...)
	s.home.account.prepare(cmd, s.home.path)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting PostgreSQL: %w", err)
	}
	proc := &process{os: cmd.Process, done: make(chan struct{})}
	go func() {
		err := cmd.Wait()
		if err == nil {
			err = errors.New("it was stopped by somebody else")
		}
		proc.end(err)
	}()
	return proc, nil
}

// arguments returns the server's command line. What keeps it private comes
// last, and last wins.
func (s *Server) arguments() []string {
	settings := maps.Clone(defaults)
	maps.Copy(settings, s.settings)
	args := []string{"-D", s.home.cluster()}
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		args = append(args, "-c", name+"="+settings[name])
	}
	return append(args,
		"-c", "listen_addresses=",
		"-c", "port="+port,
		"-c", "unix_socket_permissions=0700",
		// A list, so a directory with a space or a quote in it is quoted.
		"-c", `unix_socket_directories="`+strings.ReplaceAll(s.socket, `"`, `""`)+`"`,
	)
}

// awaitReady returns when proc accepts connections. When ctx ends first, it
// stops proc.
func (s *Server) awaitReady(ctx context.Context, proc *process) error {
	tick := time.NewTicker(readyPoll)
	defer tick.Stop()
	for {
		select {
		case <-proc.done:
			return proc.why
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), proc.stop(ctx))
		case <-tick.C:
		}
		if file, err := s.home.readPidFile(); err == nil && file.pid == proc.pid() && file.accepts(ctx) {
			return nil
		}
	}
}

// survivor returns the server that runs on the directory although its relay
// is gone, and the directory of its socket, once it accepts connections. It
// fails with errNoSurvivor when there is none.
func (h *home) survivor(ctx context.Context) (*process, string, error) {
	file, err := h.readPidFile()
	if err != nil {
		return nil, "", err
	}
	proc, err := h.adopt(file.pid)
	if err != nil {
		return nil, "", err
	}
	tick := time.NewTicker(readyPoll)
	defer tick.Stop()
	for {
		if file, err := h.readPidFile(); err == nil && file.pid == proc.pid() && file.accepts(ctx) {
			return proc, file.socket, nil
		}
		select {
		case <-proc.done:
			return nil, "", errNoSurvivor // it was on its way out
		case <-ctx.Done():
			return nil, "", errors.Join(
				fmt.Errorf("adopting PostgreSQL (process %d): %w", proc.pid(), context.Cause(ctx)), proc.stop(ctx))
		case <-tick.C:
		}
	}
}

// adopt takes charge of the process that postmaster.pid names, if it is the
// server of this directory. If it is not, a dead server left the file and the
// number is another's by now.
func (h *home) adopt(pid int) (*process, error) {
	found, err := os.FindProcess(pid)
	if err != nil {
		return nil, errNoSurvivor
	}
	proc := &process{os: found, done: make(chan struct{})}
	if !proc.alive() || !h.serves(pid) {
		return nil, h.disown()
	}
	go proc.awaitEnd()
	return proc, nil
}

// disown makes a stale postmaster.pid harmless and returns errNoSurvivor.
// PostgreSQL does not start while the process that the file names is alive,
// unless that is its own parent: us. So our number replaces the stale one; the
// rest of the file stays, since PostgreSQL learns from it which shared memory
// must be unused.
func (h *home) disown() error {
	text, err := h.root.ReadFile(pidName)
	if errors.Is(err, fs.ErrNotExist) {
		return errNoSurvivor // its server was just ending
	}
	if err != nil {
		return fmt.Errorf("reading a stale postmaster.pid: %w", err)
	}
	_, rest, _ := strings.Cut(string(text), "\n")
	if err := h.replace(pidName, strconv.Itoa(os.Getpid())+"\n"+rest); err != nil {
		return fmt.Errorf("replacing a stale postmaster.pid: %w", err)
	}
	return errNoSurvivor
}

// alive reports whether the process runs. One that has ended and that nobody
// waits for (in a container without an init) does not.
func (p *process) alive() bool {
	err := p.os.Signal(syscall.Signal(0))
	if err != nil && !errors.Is(err, syscall.EPERM) {
		return false
	}
	command, err := os.ReadFile(procFile(p.pid(), "cmdline"))
	return err != nil || len(command) > 0
}

// awaitEnd closes done when an adopted process has ended.
func (p *process) awaitEnd() {
	tick := time.NewTicker(adoptedPoll)
	defer tick.Stop()
	for p.alive() {
		<-tick.C
	}
	p.end(errors.New("the adopted server ended"))
}

// serves reports whether the process is a PostgreSQL server of this
// directory: by where it works, which every server makes its data directory,
// or where that is hidden from us by its command line.
func (h *home) serves(pid int) bool {
	command := commandLine(pid)
	if !strings.Contains(command, "postgres") {
		return false
	}
	here, hereErr := os.Stat(h.cluster())
	there, thereErr := os.Stat(procFile(pid, "cwd"))
	if hereErr == nil && thereErr == nil {
		return os.SameFile(here, there)
	}
	return strings.Contains(command, h.cluster())
}

// commandLine returns the words of a process, or "" where it has none.
func commandLine(pid int) string {
	if raw, err := os.ReadFile(procFile(pid, "cmdline")); err == nil {
		return string(bytes.ReplaceAll(raw, []byte{0}, []byte{' '}))
	}
	ctx, cancel := context.WithTimeout(context.Background(), versionLimit)
	defer cancel()
	out, err := exec.CommandContext(ctx, "ps", "-ww", "-o", "command=", "-p", strconv.Itoa(pid)).Output()
	if err != nil {
		return ""
	}
	return string(out)
}

func procFile(pid int, name string) string {
	return filepath.Join("/proc", strconv.Itoa(pid), name)
}

// pidFile is what a server tells of itself in postmaster.pid.
type pidFile struct {
	pid    int
	socket string // the directory of its socket
	ready  bool
}

// readPidFile reads postmaster.pid: a line each for process, data directory,
// start, port, socket directory, address, shared memory and state. It fails
// with errNoSurvivor where there is none; a server writes it line by line, so
// the last ones may be missing.
func (h *home) readPidFile() (pidFile, error) {
	text, err := h.root.ReadFile(pidName)
	if errors.Is(err, fs.ErrNotExist) {
		return pidFile{}, errNoSurvivor
	}
	if err != nil {
		return pidFile{}, fmt.Errorf("reading postmaster.pid: %w", err)
	}
	lines := append(strings.Split(string(text), "\n"), make([]string, 8)...)
	pid, err := strconv.Atoi(strings.TrimSpace(lines[0]))
	if err != nil || pid <= 1 {
		return pidFile{}, errNoSurvivor // torn by a power cut: PostgreSQL says what to do
	}
	return pidFile{pid: pid, socket: lines[4], ready: strings.TrimSpace(lines[7]) == "ready"}, nil
}

// accepts reports whether the server takes connections.
func (f pidFile) accepts(ctx context.Context) bool {
	if !f.ready {
		return false
	}
	conn, err := new(net.Dialer).DialContext(ctx, "unix", filepath.Join(f.socket, socketName))
	if err != nil {
		return false
	}
	_ = conn.Close() // nothing was written
	return true
}
