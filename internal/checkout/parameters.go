package checkout

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/stripe/stripe-go/v84"

	"relay.example/relay/internal/relay"
)

// shapes are the parameters of the kinds, as Stripe's library has them.
var shapes = map[relay.CreateKind]reflect.Type{
	relay.CreateSession: reflect.TypeFor[stripe.CheckoutSessionCreateParams](),
	relay.CreateLink:    reflect.TypeFor[stripe.PaymentLinkCreateParams](),
}

// ours are the parameters that the relay sets itself.
var ours = map[relay.CreateKind][]string{
	relay.CreateSession: {"client_reference_id", "success_url", "cancel_url", "return_url", "expires_at", "ui_mode", "redirect_on_completion"},
	relay.CreateLink:    {"after_completion"},
}

// Check holds what people write under create against what Stripe takes: names,
// and whether a value is one, a list or an object. What Stripe thinks of the
// values themselves, it says when a wait is registered.
func Check(c *relay.Create) error {
	kind, parameters, ok := c.What()
	if !ok {
		return relay.Errorf(relay.Invalid, "invalid_create", "create: give checkout_session or payment_link, and one of them")
	}
	at := "create." + string(kind)
	for _, name := range ours[kind] {
		if _, given := parameters[name]; given {
			return relay.Errorf(relay.Invalid, "invalid_create", "%s.%s: the relay sets it itself: leave it out", at, name)
		}
	}
	if err := check(at, parameters, shapes[kind]); err != nil { // before what is missing: it may be misspelt
		return err
	}
	if _, given := parameters["line_items"]; !given && parameters["mode"] != "setup" {
		return relay.Errorf(relay.Invalid, "invalid_create", "%s.line_items: say what is paid for", at)
	}
	return nil
}

// check holds one value against a type of the library.
func check(at string, value any, want reflect.Type) error {
	for want.Kind() == reflect.Pointer {
		want = want.Elem()
	}
	if text, ok := value.(string); value == nil || ok && strings.Contains(text, "{{") {
		return nil // known when it is rendered
	}
	switch want.Kind() {
	case reflect.Struct:
		object, ok := value.(map[string]any)
		if !ok {
			return wrongType(at, "an object")
		}
		return checkObject(at, object, want)
	case reflect.Map:
		object, ok := value.(map[string]any)
		if !ok {
			return wrongType(at, "an object")
		}
		for _, name := range slices.Sorted(maps.Keys(object)) {
			if err := check(at+"."+name, object[name], want.Elem()); err != nil {
				return err
			}
		}
		return nil
	case reflect.Slice:
		list, ok := value.([]any)
		if !ok {
			return wrongType(at, "a list")
		}
		for i, el := range list {
			if err := check(fmt.Sprintf("%s[%d]", at, i), el, want.Elem()); err != nil {
				return err
			}
		}
		return nil
	default:
		switch value.(type) {
		case map[string]any, []any:
			return wrongType(at, "one value")
		}
		return nil
	}
}

func checkObject(at string, object map[string]any, want reflect.Type) error {
	known := map[string]reflect.Type{}
	for _, f := range reflect.VisibleFields(want) {
		name, _, _ := strings.Cut(f.Tag.Get("form"), ",")
		if name != "" && name != "-" && name != "*" {
			known[name] = f.Type
		}
	}
	for _, name := range slices.Sorted(maps.Keys(object)) {
		inner, ok := known[name]
		if !ok {
			return relay.Errorf(relay.Invalid, "unknown_field", "%s.%s: Stripe knows no such parameter, as of its version %s%s", at, name, stripe.APIVersion,
				relay.DidYouMean(name, slices.Sorted(maps.Keys(known))))
		}
		if err := check(at+"."+name, object[name], inner); err != nil {
			return err
		}
	}
	return nil
}

func wrongType(at, want string) error {
	return relay.Errorf(relay.Invalid, "wrong_type", "%s: want %s, as Stripe does", at, want)
}
