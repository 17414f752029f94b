package bench

import (
	"fmt"
	"math/rand/v2"
	"strconv"
)

// A callback of the bench is a paid checkout session in Stripe's compact form:
// its own field names, with ids, person and amount that differ from callback
// to callback, so that nothing it meets on its way is found in a cache or
// compresses as copies do. Metadata, which merchants fill as they like, makes
// it exactly as long as was asked for.

// The sizes of a callback, in bytes: without metadata to speak of, and with
// the most that Stripe takes (50 keys of 500 characters).
const (
	minBody = 1_500
	maxBody = 24 << 10
)

// shortBody is about how long a callback is that holds only what is read.
const shortBody = 450

// What varies from callback to callback, besides ids and numbers.
var (
	givenNames  = []string{"Anna", "Jo", "Mikkel", "Fatima", "Søren", "Chiara", "Wei", "Olga", "Priya", "Luis", "Katarzyna", "Tom"}
	familyNames = []string{"Miller", "Jensen", "Rossi", "Nowak", "Schmidt", "García", "Okafor", "Li", "Lindqvist", "Dubois", "Kaya", "Brandt"}
	cities      = []string{"Aarhus", "Hamburg", "Torino", "Kraków", "Lyon", "Utrecht", "Porto", "Graz", "Malmö", "Gent"}
	countries   = []string{"DK", "DE", "IT", "PL", "FR", "NL", "PT", "AT", "SE", "BE"}
	mailHosts   = []string{"example.com", "example.org", "mail.example.net", "post.example.dk"}
	goods       = []string{
		"wool scarf", "dark blue", "espresso cups", "set of 4", "gift wrap", "size M", "linen shirt", "delivery", "tracked",
		"organic cotton", "large", "green", "returns within 30 days", "notebook", "A5 dotted", "walnut", "batch", "club member",
	}
	metadataKeys = []string{
		"cart", "campaign", "store", "customer_note", "channel", "bot_session", "utm_source", "fulfilment", "invoice_text", "segment",
	}
)

// draw makes what varies of one callback. The same number in the same run
// makes the same callback.
type draw struct{ rand.PCG }

func (d *draw) below(n int) int { return int(d.Uint64() % uint64(n)) }

func (d *draw) of(list []string) string { return list[d.below(len(list))] }

const alphanumeric = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// id appends characters as Stripe's ids have them.
func (d *draw) id(b []byte, length int) []byte {
	var bits uint64
	for i := range length {
		if i%10 == 0 { // 62^10 fits into 64 bits
			bits = d.Uint64()
		}
		b = append(b, alphanumeric[bits%62])
		bits /= 62
	}
	return b
}

// event is one callback, written into space that is used again.
type event struct{ body, tail []byte }

// Callback makes the callback of one user in space of its own. size is in
// bytes, 1,500 to 24,576.
func Callback(run uint64, user int, token string, size int) []byte {
	return new(event).write(run, user, token, min(max(size, minBody), maxBody))
}

// write makes the callback of one user. size was held to minBody and maxBody.
func (e *event) write(run uint64, user int, token string, size int) []byte {
	d := &draw{}
	d.Seed(run, uint64(user))
	e.tail = appendTail(e.tail[:0], d)
	e.body = appendHead(e.body[:0], d, token)
	const open, end = `"metadata":{`, `},`
	room := size - len(e.body) - len(e.tail) - len(open) - len(end)
	e.body = append(e.body, open...)
	e.body = appendMetadata(e.body, d, room)
	e.body = append(e.body, end...)
	e.body = append(e.body, e.tail...)
	return e.body
}

// writeShort makes the callback of one user with what is read of it, and
// nothing else. It says the same as a long one.
func (e *event) writeShort(run uint64, user int, token string) []byte {
	d := &draw{}
	d.Seed(run, uint64(user))
	b := append(e.body[:0], `{"id":"evt_1`...)
	b = d.id(b, 23)
	b = append(b, `","livemode":true,"type":"checkout.session.completed","data":{"object":{"id":"cs_live_a1`...)
	b = d.id(b, 56)
	b = append(b, `","object":"checkout.session","amount_total":`...)
	b = strconv.AppendInt(b, int64(300+d.below(30_000)), 10)
	b = append(b, `,"client_reference_id":"`...)
	b = append(b, token...)
	b = append(b, `","currency":"eur","customer_details":{"email":"customer.`...)
	b = strconv.AppendInt(b, int64(d.below(10_000_000)), 10)
	b = append(append(append(b, '@'), d.of(mailHosts)...), `"},"payment_intent":"pi_3`...)
	b = d.id(b, 23)
	e.body = append(b, `","payment_method_types":["card"],"payment_status":"paid"}}}`...)
	return e.body
}

// appendHead writes all that comes before the metadata.
func appendHead(b []byte, d *draw, token string) []byte {
	given, family, place := d.of(givenNames), d.of(familyNames), d.below(len(cities))
	created := 1_790_000_000 + d.below(5_000_000)
	cents := int64(300 + d.below(30_000))
	b = append(b, `{"id":"evt_1`...)
	b = d.id(b, 23)
	b = append(b, `","object":"event","api_version":"2025-09-30.clover","created":`...)
	b = strconv.AppendInt(b, int64(created), 10)
	b = append(b, `,"data":{"object":{"id":"cs_live_a1`...)
	b = d.id(b, 56)
	b = append(b, `","object":"checkout.session","adaptive_pricing":{"enabled":false},"allow_promotion_codes":false,"amount_subtotal":`...)
	b = strconv.AppendInt(b, cents, 10)
	b = append(b, `,"amount_total":`...)
	b = strconv.AppendInt(b, cents, 10)
	b = append(b, `,"automatic_tax":{"enabled":false,"liability":null,"status":null},"billing_address_collection":"auto","cancel_url":null,"client_reference_id":"`...)
	b = append(b, token...)
	b = append(b, `","created":`...)
	b = strconv.AppendInt(b, int64(created-d.below(1_800)), 10)
	b = append(b, `,"currency":"eur","custom_fields":[],"customer":null,"customer_creation":"if_required","customer_details":{"address":{"city":"`...)
	b = append(b, cities[place]...)
	b = append(b, `","country":"`...)
	b = append(b, countries[place]...)
	b = append(b, `","line1":null,"line2":null,"postal_code":"`...)
	b = strconv.AppendInt(b, int64(1000+d.below(90_000)), 10)
	b = append(b, `","state":null},"email":"customer.`...)
	b = strconv.AppendInt(b, int64(d.below(10_000_000)), 10)
	b = append(b, '@')
	b = append(b, d.of(mailHosts)...)
	b = append(b, `","name":"`...)
	b = append(b, given...)
	b = append(b, ' ')
	b = append(b, family...)
	return append(b, `","phone":null,"tax_exempt":"none","tax_ids":[]},"expires_at":null,"invoice":null,"livemode":true,"locale":"auto",`...)
}

// appendTail writes all that comes after the metadata.
func appendTail(b []byte, d *draw) []byte {
	b = append(b, `"mode":"payment","payment_intent":"pi_3`...)
	b = d.id(b, 23)
	b = append(b, `","payment_link":"plink_1`...)
	b = d.id(b, 23)
	return append(b, `","payment_method_types":["card"],"payment_status":"paid","phone_number_collection":{"enabled":false},`+
		`"status":"complete","submit_type":"auto","success_url":null,"total_details":{"amount_discount":0,"amount_shipping":0,"amount_tax":0},`+
		`"ui_mode":"hosted","url":null}},"livemode":true,"pending_webhooks":1,"request":{"id":null,"idempotency_key":null},`+
		`"type":"checkout.session.completed"}`...)
}

// The shortest entry of the metadata that appendMetadata leaves room for, and
// the longest value.
const (
	minEntry = 40
	maxValue = 480
)

// appendMetadata writes exactly room bytes of entries.
func appendMetadata(b []byte, d *draw, room int) []byte {
	end := len(b) + room
	for i := 0; len(b) < end; i++ {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, '"')
		b = append(b, metadataKeys[i%len(metadataKeys)]...)
		if i >= len(metadataKeys) {
			b = strconv.AppendInt(append(b, '_'), int64(i/len(metadataKeys)+1), 10)
		}
		b = append(b, `":"`...)
		left := end - len(b) - 1 // the closing quote
		if left > maxValue {
			left = min(maxValue, left-minEntry)
		}
		b = append(appendGoods(b, d, left), '"')
	}
	return b
}

// appendGoods writes length bytes of what a shop notes about an order.
func appendGoods(b []byte, d *draw, length int) []byte {
	end := len(b) + length
	for len(b) < end {
		b = append(b, "SKU-"...)
		b = strconv.AppendInt(b, int64(10_000+d.below(90_000)), 10)
		b = append(b, ' ')
		b = append(b, d.of(goods)...)
		b = append(b, ", "...)
	}
	return b[:end]
}

// checkBody refuses sizes that no callback of the bench can have.
func checkBody(size int) error {
	if size < minBody || size > maxBody {
		return fmt.Errorf("a callback cannot have %d bytes: ask for %d to %d", size, minBody, maxBody)
	}
	return nil
}
