package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"
)

// role is the name of both the user and the database.
const role = "relay"

// protocol is version 3.0 of Postgres' own.
const protocol = 3 << 16

// maxMessage bounds what a server says while a session begins, in bytes.
const maxMessage = 1 << 16

// sessionLimit is how long a session may take to begin.
const sessionLimit = 2 * time.Second

// openSession begins a session and asks nothing on it. That takes no driver:
// one message, and the answers up to "ready for query".
func openSession(ctx context.Context, address string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	if err := beginSession(c); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func beginSession(c net.Conn) error {
	if err := c.SetDeadline(time.Now().Add(sessionLimit)); err != nil {
		return err
	}
	body := binary.BigEndian.AppendUint32(nil, protocol)
	body = append(body, "user\x00"+role+"\x00database\x00"+role+"\x00\x00"...)
	if _, err := c.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(body)+4)), body...)); err != nil {
		return err
	}
	if err := awaitReady(bufio.NewReader(c)); err != nil {
		return err
	}
	return c.SetDeadline(time.Time{})
}

// awaitReady reads messages until the server is ready, or says why it is not.
func awaitReady(r *bufio.Reader) error {
	for {
		kind, err := r.ReadByte()
		if err != nil {
			return err
		}
		var size uint32
		if err := binary.Read(r, binary.BigEndian, &size); err != nil {
			return err
		}
		if size < 4 || size > maxMessage {
			return fmt.Errorf("a message of %d bytes", size)
		}
		text := make([]byte, size-4)
		if _, err := io.ReadFull(r, text); err != nil {
			return err
		}
		switch kind {
		case 'Z':
			return nil
		case 'E':
			return fmt.Errorf("the server refuses: %q", bytes.ReplaceAll(text, []byte{0}, []byte{' '}))
		}
	}
}

// hog holds every connection that a server has to give.
type hog struct {
	stop context.CancelFunc
	done sync.WaitGroup
}

// startHog takes connections, and returns once the server refuses one; what
// becomes free later it takes too. The role is a superuser, so that those in
// reserve are taken as well.
func startHog(ctx context.Context, address string) (*hog, error) {
	holding, stop := context.WithCancel(ctx)
	h := &hog{stop: stop}
	full := make(chan struct{})
	h.done.Go(func() {
		var held []net.Conn
		defer func() {
			for _, c := range held {
				_ = c.Close() // nothing was asked on it
			}
		}()
		first := sync.OnceFunc(func() { close(full) })
		for holding.Err() == nil {
			c, err := openSession(holding, address)
			if err == nil {
				held = append(slices.Clip(held), c)
				continue
			}
			first()
			_ = pause(holding, 20*time.Millisecond)
		}
	})
	select {
	case <-full:
		return h, nil
	case <-time.After(startLimit):
		h.end()
		return nil, fmt.Errorf("the server still gives connections after %s", startLimit)
	}
}

// end gives all connections back.
func (h *hog) end() {
	h.stop()
	h.done.Wait()
}
