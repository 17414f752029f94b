package provider_test

import (
	"bytes"
	"errors"
	"fmt"
	"mime/multipart"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"relay.example/relay/internal/provider"
	"relay.example/relay/internal/relay"
)

func formRequest(contentType, body string) *provider.Request {
	header := http.Header{}
	if contentType != "" {
		header.Set("Content-Type", contentType)
	}
	return &provider.Request{Method: "POST", Header: header, Body: []byte(body)}
}

const urlencoded = "application/x-www-form-urlencoded"

func multipartRequest(t *testing.T, write func(w *multipart.Writer)) *provider.Request {
	t.Helper()
	var body bytes.Buffer
	w := multipart.NewWriter(&body)
	write(w)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return formRequest(w.FormDataContentType(), body.String())
}

func TestHTMLFormInItsThreeEncodings(t *testing.T) {
	for _, test := range []struct {
		name   string
		req    *provider.Request
		format relay.Format
	}{
		{"urlencoded", formRequest(urlencoded, "Your+name=Zo%C3%AB+%26+Co&token=tok_1&day=mon&day=tue"), relay.FormatForm},
		{"multipart", multipartRequest(t, func(w *multipart.Writer) {
			for _, f := range [][2]string{{"Your name", "Zoë & Co"}, {"token", "tok_1"}, {"day", "mon"}, {"day", "tue"}} {
				if err := w.WriteField(f[0], f[1]); err != nil {
					t.Fatal(err)
				}
			}
		}), relay.FormatForm},
		{"JSON", formRequest("application/json; charset=utf-8", `{"Your name":"Zoë & Co","token":"tok_1","day":["mon","tue"]}`), relay.FormatJSON},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := read(t, endpoint(t, "html-form", provider.Settings{}), test.req)
			want := relay.Reading{
				Type: "submission", Outcome: relay.Completed, Format: test.format,
				Candidates: []relay.Candidate{{Place: "form:token", Value: "tok_1"}},
				Form: map[string]any{
					"Your name": "Zoë & Co", "your_name": "Zoë & Co", "day": []any{"mon", "tue"},
				},
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("reading (-want +got):\n%s", diff)
			}
		})
	}
}

func TestHTMLFormNotesFilesByNameAndSize(t *testing.T) {
	req := multipartRequest(t, func(w *multipart.Writer) {
		for range 2 {
			part, err := w.CreateFormFile("cv", "cv.pdf")
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprint(part, strings.Repeat("x", 1234))
		}
	})
	file := map[string]any{"filename": "cv.pdf", "size": int64(1234)}
	want := map[string]any{"cv": []any{file, file}}
	if diff := cmp.Diff(want, read(t, endpoint(t, "html-form", provider.Settings{}), req).Form); diff != "" {
		t.Errorf("form (-want +got):\n%s", diff)
	}
}

func TestHTMLFormCandidatesInOrder(t *testing.T) {
	req := formRequest(urlencoded, "conversation_token=d&token=e")
	req.PathToken = "a"
	req.Query = url.Values{"token": {"c"}, "conversation_token": {"b"}}
	want := []relay.Candidate{
		{Place: "path", Value: "a"},
		{Place: "query:conversation_token", Value: "b"},
		{Place: "query:token", Value: "c"},
		{Place: "form:conversation_token", Value: "d"},
		{Place: "form:token", Value: "e"},
	}
	if diff := cmp.Diff(want, read(t, endpoint(t, "html-form", provider.Settings{}), req).Candidates); diff != "" {
		t.Errorf("candidates (-want +got):\n%s", diff)
	}
}

func TestConfiguredTokenFieldReplacesTheDefaults(t *testing.T) {
	e := endpoint(t, "html-form", provider.Settings{TokenField: "ref", KeyField: "order"})
	got := read(t, e, formRequest(urlencoded, "ref=a&token=b&order=c"))
	want := []relay.Candidate{{Place: "form:ref", Value: "a"}, {Place: "form:order", Value: "c"}}
	if diff := cmp.Diff(want, got.Candidates); diff != "" {
		t.Errorf("candidates (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]any{"token": "b", "order": "c"}, got.Form); diff != "" {
		t.Errorf("form (-want +got):\n%s", diff)
	}
}

func TestHostedFormReadsTheTokenOfThePathAlone(t *testing.T) {
	req := formRequest("application/json", `{"fields": [{"name": "colour", "label": "Which colour?", "value": "red"}, {"name": "age", "label": "Age", "value": 7},
		{"name": "topics", "value": ["a", "b"]}, {"name": "news", "value": false}, {"name": "token", "value": "other"}]}`)
	req.PathToken = "tok_1"
	got := read(t, endpoint(t, "form", provider.Settings{}), req)
	if diff := cmp.Diff([]relay.Candidate{{Place: "path", Value: "tok_1"}}, got.Candidates); diff != "" {
		t.Errorf("candidates (-want +got):\n%s", diff)
	}
	want := map[string]any{
		"colour": "red", "which_colour": "red", "age": int64(7), "topics": []any{"a", "b"}, "news": false,
	}
	if diff := cmp.Diff(want, got.Form); diff != "" {
		t.Errorf("form (-want +got):\n%s", diff)
	}
}

func TestFormNames(t *testing.T) {
	e := endpoint(t, "html-form", provider.Settings{})
	got := read(t, e, formRequest("application/json",
		`{"E-mail address?":"a@b","e_mail_address":"own name wins","Größe":12,"ratio":0.5,"big":1e999,"n":{"a":[1,null,true]},"???":"x","z\u0000":"a\u0000b"}`))
	want := map[string]any{
		"E-mail address?": "a@b", "e_mail_address": "own name wins", "Größe": int64(12), "größe": int64(12),
		"ratio": 0.5, "big": "1e999", "n": map[string]any{"a": []any{int64(1), nil, true}}, "???": "x",
		"z\uFFFD": "a\uFFFDb", "z": "a\uFFFDb",
	}
	if diff := cmp.Diff(want, got.Form); diff != "" {
		t.Errorf("form (-want +got):\n%s", diff)
	}
}

func TestUnreadableBodies(t *testing.T) {
	many := strings.Repeat("a=1&", provider.MaxFields+1)
	for _, test := range []struct {
		name, preset string
		req          *provider.Request
		want         string
	}{
		{"empty JSON", "stripe", formRequest("", ""), provider.NotJSON},
		{"text", "stripe", formRequest("", "Hello, World!"), provider.NotJSON},
		{"trailing data", "stripe", formRequest("", `{} {}`), provider.NotJSON},
		{"cut off", "stripe", formRequest("", `{"id":"evt_`), provider.NotJSON},
		{"Latin-1", "stripe", formRequest("", "{\"id\":\"\xe9\"}"), provider.NotUTF8},
		{"65 levels", "stripe", formRequest("", nested(65)), provider.TooDeep},
		{"a million levels", "stripe", formRequest("", strings.Repeat("[", 1<<20)), provider.TooDeep},
		{"XML", "html-form", formRequest("text/xml", "<a/>"), provider.UnsupportedContent},
		{"no content type", "html-form", formRequest("", "a=1"), provider.UnsupportedContent},
		{"a content type that cannot be read", "html-form", formRequest("a b/;;", "a=1"), provider.UnsupportedContent},
		{"a JSON list as a form", "html-form", formRequest("application/json", "[]"), provider.NotAnObject},
		{"a broken escape", "html-form", formRequest(urlencoded, "a=%zz"), provider.BadForm},
		{"too many fields", "html-form", formRequest(urlencoded, many), provider.TooManyFields},
		{"too many members", "html-form", formRequest("application/json", "{"+strings.Repeat(`"a":1,`, provider.MaxFields)+`"b":1}`), provider.TooManyFields},
		{"no boundary", "html-form", formRequest("multipart/form-data", "--x--"), provider.BadMultipart},
		{"another boundary", "html-form", formRequest("multipart/form-data; boundary=x", "--y\r\n\r\n--y--"), provider.BadMultipart},
		{"a part cut off", "html-form", formRequest("multipart/form-data; boundary=x", "--x\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\nabc"), provider.BadMultipart},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := endpoint(t, test.preset, provider.Settings{}).Read(test.req)
			var unreadable *provider.Unreadable
			if !errors.As(err, &unreadable) || unreadable.Code != test.want {
				t.Fatalf("Read: got %v, want code %s", err, test.want)
			}
			if test.want == provider.UnsupportedContent && !strings.Contains(unreadable.Detail, "multipart/form-data or application/json") {
				t.Errorf("detail: got %q, want it to name what is read", unreadable.Detail)
			}
		})
	}
}

func nested(levels int) string {
	return strings.Repeat(`{"a":`, levels) + "1" + strings.Repeat("}", levels)
}

func TestDepthCountsNoBracketsInStrings(t *testing.T) {
	e := endpoint(t, "stripe", provider.Settings{})
	got := readBody(t, e, `{"x":"`+strings.Repeat(`[{\"`, 100)+`\\","id":"evt_1","y":`+nested(63)+`}`)
	if got.EventID != "evt_1" {
		t.Errorf("event id: got %q, want evt_1", got.EventID)
	}
}

func TestBodiesOfAMegabyte(t *testing.T) {
	filler := strings.Repeat("x", 1<<20)
	for _, test := range []struct {
		name, preset string
		req          *provider.Request
	}{
		{"JSON", "generic-hmac", formRequest("", `{"filler":"`+filler+`","id":"1","token":"tok_1"}`)},
		{"a long list", "generic-hmac", formRequest("", `{"filler":[`+strings.Repeat("0,", 1<<19)+`0],"id":"1","token":"tok_1"}`)},
		{"urlencoded", "html-form", formRequest(urlencoded, "filler="+filler+"&token=tok_1")},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := read(t, endpoint(t, test.preset, provider.Settings{}), test.req)
			if len(got.Candidates) != 1 || got.Candidates[0].Value != "tok_1" {
				t.Errorf("candidates: got %v, want tok_1", got.Candidates)
			}
		})
	}
}
