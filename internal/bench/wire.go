package bench

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"net"
	"strconv"
	"time"
)

// The load generator and the sink speak just enough HTTP/1.1 to be cheap:
// they share the machine with what they measure.

// maxHead bounds the head of a message, in bytes.
const maxHead = 32 << 10

// conn is one kept-alive client connection.
type conn struct {
	net.Conn
	r   *bufio.Reader
	out []byte

	// What makes callbacks, used again and again.
	event event
	mac   hash.Hash
	sum   [sha256.Size]byte
}

func dial(address string) (*conn, error) {
	c, err := net.DialTimeout("tcp", address, 5*time.Second) //nolint:noctx // loopback, and bounded
	if err != nil {
		return nil, fmt.Errorf("connecting to the relay: %w", err)
	}
	return &conn{Conn: c, r: bufio.NewReaderSize(c, 8<<10)}, nil
}

// post sends one request and returns the status and body of its answer. The
// body is good until the next call.
func (c *conn) post(path string, headers, body []byte) (status int, answer []byte, err error) {
	c.out = append(c.out[:0], "POST "...)
	c.out = append(c.out, path...)
	c.out = append(c.out, " HTTP/1.1\r\nHost: relay\r\nContent-Type: application/json\r\n"...)
	c.out = append(c.out, headers...)
	c.out = append(c.out, "Content-Length: "...)
	c.out = strconv.AppendInt(c.out, int64(len(body)), 10)
	c.out = append(c.out, "\r\n\r\n"...)
	c.out = append(c.out, body...)
	return c.exchange()
}

// get asks for a page as a browser does.
func (c *conn) get(path string) (status int, answer []byte, err error) {
	c.out = append(append(append(c.out[:0], "GET "...), path...), asBrowser+"\r\n"...)
	return c.exchange()
}

// asBrowser is the rest of the first line and the head of what a person's
// browser sends: a program's opening of a link is not noted.
const asBrowser = " HTTP/1.1\r\nHost: relay\r\nAccept: text/html\r\nAccept-Language: de, en;q=0.5\r\n" +
	"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n"

// submit sends a form as a browser behind a proxy does.
func (c *conn) submit(path, from, form string) (status int, answer []byte, err error) {
	c.out = append(append(append(c.out[:0], "POST "...), path...), asBrowser...)
	c.out = fmt.Appendf(c.out, "X-Forwarded-For: %s\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\n%s", from, len(form), form)
	return c.exchange()
}

// exchange sends what stands in c.out and reads the answer.
func (c *conn) exchange() (status int, answer []byte, err error) {
	if _, err := c.Write(c.out); err != nil {
		return 0, nil, fmt.Errorf("sending: %w", err)
	}
	first, length, err := readHead(c.r)
	if err != nil {
		return 0, nil, fmt.Errorf("reading the answer: %w", err)
	}
	if len(first) < 12 {
		return 0, nil, errors.New("reading the answer: no status line")
	}
	if status, err = strconv.Atoi(string(first[9:12])); err != nil {
		return 0, nil, fmt.Errorf("reading the answer: %w", err)
	}
	c.out = append(c.out[:0], make([]byte, length)...)
	_, err = io.ReadFull(c.r, c.out)
	return status, c.out, err
}

// readHead reads the head of a message: its first line and the length of the
// body that follows.
func readHead(r *bufio.Reader) (first []byte, length int, err error) {
	read := 0
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return nil, 0, err
		}
		if read += len(line); read > maxHead {
			return nil, 0, errors.New("the head is too long")
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			return first, length, nil
		}
		if first == nil {
			first = bytes.Clone(line)
			continue
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		if bytes.EqualFold(name, []byte("Content-Length")) {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil || length < 0 {
				return nil, 0, errors.New("the length cannot be read")
			}
		}
	}
}
