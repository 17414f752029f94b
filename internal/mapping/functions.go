package mapping

import (
	"fmt"
	"slices"
	"strings"
)

// function is one of our own functions in expressions.
type function struct {
	name  string
	call  func(args ...any) (any, error)
	types []any
}

// functions are those which the library has too, but without what we need of
// them: string there writes 1000000.0 as 1e+06, and replace and join may grow
// a text to any length.
func functions() []function {
	return []function{
		{"string", callString, []any{new(func(any) string)}},
		{"replace", callReplace, []any{new(func(string, string, string) string)}},
		{"join", callJoin, []any{
			new(func([]any, string) string), new(func([]string, string) string),
		}},
	}
}

func isFunction(name string) bool {
	return slices.ContainsFunc(functions(), func(f function) bool { return f.name == name })
}

func functionNames() []string {
	out := builtins()
	for _, f := range functions() {
		out = append(out, f.name)
	}
	slices.Sort(out)
	return out
}

// callString writes a value as it would stand in a text.
func callString(args ...any) (any, error) {
	p := purse{left: MaxOutput}
	v, err := p.take(args[0], 0)
	if err != nil {
		return nil, err
	}
	return Text(v), nil
}

func callReplace(args ...any) (any, error) {
	s, err := strings3(args)
	if err != nil {
		return nil, err
	}
	grown := len(s[0]) + strings.Count(s[0], s[1])*(len(s[2])-len(s[1]))
	if grown > MaxOutput {
		return nil, errTooLong
	}
	return strings.ReplaceAll(s[0], s[1], s[2]), nil
}

func callJoin(args ...any) (any, error) {
	sep, ok := args[1].(string)
	if !ok {
		return nil, fmt.Errorf("join needs a text between the items, not %T", args[1])
	}
	items, ok := texts(args[0])
	if !ok {
		return nil, fmt.Errorf("join needs a list, not %T", args[0])
	}
	total := len(sep) * len(items)
	for _, item := range items {
		total += len(item)
	}
	if total > MaxOutput {
		return nil, errTooLong
	}
	return strings.Join(items, sep), nil
}

// strings3 takes the arguments of replace: their types are only checked when
// the expression is compiled where they are known by then.
func strings3(args []any) (out [3]string, err error) {
	for i := range out {
		s, ok := args[i].(string)
		if !ok {
			return out, fmt.Errorf("replace needs three texts, not %T", args[i])
		}
		out[i] = s
	}
	return out, nil
}

func texts(list any) ([]string, bool) {
	switch list := list.(type) {
	case []string:
		return list, true
	case []any:
		p := purse{left: MaxOutput}
		out := make([]string, 0, len(list))
		for _, item := range list {
			v, err := p.take(item, 0)
			if err != nil {
				return nil, false
			}
			out = append(out, Text(v))
		}
		return out, true
	}
	return nil, false
}
