package provider_test

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"relay.example/relay/internal/provider"
	"relay.example/relay/internal/relay"
)

// sample is a callback as its provider writes it, in short, and the normal
// form that it is to have.
type sample struct {
	preset, name string
	header       map[string]string
	query, path  string
	form         url.Values // instead of body
	body         string

	id         string
	outcome    relay.Outcome
	token      string
	references []string // kind=value
	payment    *relay.Payment
	fields     map[string]any
}

// docusignXML is what Connect posts as XML, in short: the recipient's status is
// not the envelope's.
func docusignXML(status, field string) string {
	return `<?xml version="1.0" encoding="utf-8"?>
<DocuSignEnvelopeInformation xmlns:xsd="http://www.w3.org/2001/XMLSchema" xmlns="http://www.docusign.net/API/3.0">
  <EnvelopeStatus>
    <RecipientStatuses><RecipientStatus><Type>Signer</Type><Status>Signed</Status></RecipientStatus></RecipientStatuses>
    <TimeGenerated>2026-03-14T09:26:53.1</TimeGenerated>
    <EnvelopeID>e1</EnvelopeID>
    <Subject>Agreement &amp; terms</Subject>
    <Status>` + status + `</Status>
    <` + status + `>2026-03-14T09:26:52</` + status + `>
    <CustomFields><CustomField><Name>AccountId</Name><Show>false</Show><Value>111</Value></CustomField>` + field + `</CustomFields>
    <DocumentStatuses><DocumentStatus><ID>1</ID><Name>a.pdf</Name></DocumentStatus></DocumentStatuses>
  </EnvelopeStatus>
  <TimeZone>Pacific Standard Time</TimeZone>
</DocuSignEnvelopeInformation>`
}

func euros(id string, minor int64) *relay.Payment {
	return &relay.Payment{ID: id, AmountMinor: &minor, Currency: "EUR", Exponent: 2}
}

// with changes a payment, and returns it.
func with(p *relay.Payment, change func(p *relay.Payment)) *relay.Payment {
	change(p)
	return p
}

// samples holds each preset to the normal form: what there is of outcomes
// besides those of the vectors, the payment and the form, and the references.
var samples = []sample{
	{
		preset: "adyen", name: "refund", body: `{"live":"true","notificationItems":[{"NotificationRequestItem":{"eventCode":"REFUND","success":"true","pspReference":"R1","originalReference":"P1","merchantReference":"tok","merchantAccountCode":"Shop","amount":{"value":1130,"currency":"EUR"}}}]}`,
		id: "R1:REFUND:true", outcome: relay.Refunded, token: "tok", references: []string{"payment=P1", "payment=R1"},
		payment: with(euros("P1", 1130), func(p *relay.Payment) { p.Live, p.Account = ptr(true), "Shop" }),
	},
	{
		preset: "adyen", name: "a refund that failed", body: `{"notificationItems":[{"NotificationRequestItem":{"eventCode":"REFUND","success":"false","pspReference":"R1"}}]}`,
		id: "R1:REFUND:false", references: []string{"payment=R1"}, payment: &relay.Payment{ID: "R1", Exponent: 2},
	},
	{
		preset: "adyen", name: "chargeback in a currency of its own digits", body: `{"notificationItems":[{"NotificationRequestItem":{"eventCode":"CHARGEBACK","success":"true","pspReference":"C1","originalReference":"P1","amount":{"value":"100","currency":"ISK"}}}]}`,
		id: "C1:CHARGEBACK:true", outcome: relay.Disputed, references: []string{"payment=P1", "payment=C1"},
		payment: &relay.Payment{ID: "P1", AmountMinor: ptr(int64(100)), Currency: "ISK", Exponent: 2},
	},
	{
		preset: "adyen-platform", name: "transfer", body: `{"type":"balancePlatform.transfer.updated","data":{"id":"T1","reference":"tok"}}`,
		token: "tok", references: []string{"transfer=T1"},
	},
	{
		preset: "braintree", name: "dispute", form: url.Values{"bt_payload": {"PG5vdGlmaWNhdGlvbj48a2luZD5kaXNwdXRlX29wZW5lZDwva2luZD48dGltZXN0YW1wPnQ8L3RpbWVzdGFtcD48c3ViamVjdD48ZGlzcHV0ZT48aWQ+ZDE8L2lkPjxhbW91bnQ+MjAuNTA8L2Ftb3VudD48Y3VycmVuY3ktaXNvLWNvZGU+RVVSPC9jdXJyZW5jeS1pc28tY29kZT48dHJhbnNhY3Rpb24+PGlkPnQxPC9pZD48L3RyYW5zYWN0aW9uPjwvZGlzcHV0ZT48L3N1YmplY3Q+PC9ub3RpZmljYXRpb24+"}},
		id: "dispute_opened:d1:t", outcome: relay.Disputed, references: []string{"transaction=t1"}, payment: euros("t1", 2050),
	},
	{
		preset: "calcom", name: "answers", body: `{"triggerEvent":"BOOKING_PAID","payload":{"uid":"b1","metadata":{"token":"tok"},"responses":{"name":{"label":"your_name","value":"Ada"},"guests":{"label":"Guests","value":["a@b.example"]}}}}`,
		id: "BOOKING_PAID:b1", outcome: relay.Completed, token: "tok", references: []string{"booking=b1"},
		fields: map[string]any{"name": "Ada", "your_name": "Ada", "guests": []any{"a@b.example"}},
	},
	{
		preset: "calendly", name: "answers", body: `{"event":"invitee.created","payload":{"uri":"u1","tracking":{"utm_content":null,"salesforce_uuid":"tok"},"questions_and_answers":[{"question":"What about?","answer":"Tea","position":0}]}}`,
		id: "invitee.created:u1", outcome: relay.Completed, token: "tok", references: []string{"invitee=u1"},
		fields: map[string]any{"What about?": "Tea", "what_about": "Tea"},
	},
	{
		preset: "calendly", name: "moved", body: `{"event":"invitee.canceled","payload":{"uri":"u1","rescheduled":true,"tracking":{"utm_content":"tok"}}}`,
		id: "invitee.canceled:u1", token: "tok", references: []string{"invitee=u1"}, fields: map[string]any{},
	},
	{
		preset: "checkoutcom", name: "dispute", body: `{"id":"evt_1","type":"dispute_received","data":{"id":"dsp_1","payment_id":"pay_1","amount":2050,"currency":"EUR","metadata":{"token":"tok"}}}`,
		id: "evt_1", outcome: relay.Disputed, token: "tok", references: []string{"payment=pay_1"}, payment: euros("pay_1", 2050),
	},
	{
		preset: "checkoutcom", name: "capture declined", body: `{"id":"evt_1","type":"payment_capture_declined","data":{"id":"pay_1","reference":"tok","amount":2050,"currency":"EUR","source":{"type":"card"},"customer":{"email":"a@b.example"}}}`,
		id: "evt_1", outcome: relay.Failed, token: "tok", references: []string{"payment=pay_1"},
		payment: with(euros("pay_1", 2050), func(p *relay.Payment) { p.Method, p.Email = "card", "a@b.example" }),
	},
	{
		preset: "docusign", name: "completed, as XML", body: "\uFEFF" + docusignXML("Completed", "<CustomField><Name>conversation_token</Name><Value>tok</Value></CustomField>"),
		id: "Completed:e1:2026-03-14T09:26:53.1", outcome: relay.Completed, token: "tok", references: []string{"envelope=e1"},
		fields: map[string]any{"AccountId": "111", "accountid": "111"},
	},
	{
		preset: "docusign", name: "voided, as XML", body: docusignXML("Voided", "") + "\n",
		id: "Voided:e1:2026-03-14T09:26:53.1", outcome: relay.Cancelled, references: []string{"envelope=e1"},
		fields: map[string]any{"AccountId": "111", "accountid": "111"},
	},
	{
		preset: "docusign", name: "time is up, as XML", body: strings.Replace(docusignXML("Voided", ""), "<Voided>", "<VoidedReason>Envelope has expired.</VoidedReason><Voided>", 1),
		id: "Voided:e1:2026-03-14T09:26:53.1", outcome: relay.Expired, references: []string{"envelope=e1"},
		fields: map[string]any{"AccountId": "111", "accountid": "111"},
	},
	{
		preset: "docusign", name: "expired", body: `{"event":"envelope-voided","generatedDateTime":"t","data":{"envelopeId":"e1","envelopeSummary":{"voidedReason":"Envelope has expired.","customFields":{"textCustomFields":[{"name":"Plan","value":"pro"},{"name":"token","value":"tok"}]}}}}`,
		id: "envelope-voided:e1:t", outcome: relay.Expired, token: "tok", references: []string{"envelope=e1"},
		fields: map[string]any{"Plan": "pro", "plan": "pro"},
	},
	{
		preset: "fillout", name: "answers", body: `{"formId":"f","submission":{"submissionId":"s1","questions":[{"id":"q1","name":"Your name","type":"ShortAnswer","value":"Ada"},{"id":"q2","name":"Colours","value":["red"]}],"urlParameters":[{"id":"x","name":"token","value":"tok"}]}}`,
		id: "s1", outcome: relay.Completed, token: "tok", references: []string{"submission=s1"},
		fields: map[string]any{"Your name": "Ada", "your_name": "Ada", "Colours": []any{"red"}, "colours": []any{"red"}},
	},
	{
		preset: "fillout", name: "without a cover", body: `{"submissionId":"s1","questions":[{"id":"q1","value":"Ada"}],"urlParameters":[{"name":"token","value":"tok"}]}`,
		id: "s1", outcome: relay.Completed, token: "tok", references: []string{"submission=s1"}, fields: map[string]any{"q1": "Ada"},
	},
	{
		preset: "formspree", name: "answers", body: `{"form":"f","submission":{"_date":"d","email":"a@b.example","conversation_token":"tok"}}`,
		outcome: relay.Completed, token: "tok", fields: map[string]any{"_date": "d", "date": "d", "email": "a@b.example"},
	},
	{
		preset: "gocardless", name: "payment", body: `{"events":[{"id":"E1","resource_type":"payments","action":"confirmed","links":{"payment":"PM1"},"details":{"scheme":"sepa_core"},"metadata":{"token":"not the merchant's"},"resource_metadata":{"token":"tok"}}]}`,
		id: "E1", outcome: relay.Completed, token: "tok", references: []string{"payment=PM1"}, payment: &relay.Payment{ID: "PM1", Exponent: 2, Method: "sepa_core"},
	},
	{
		preset: "gocardless", name: "charged back", body: `{"events":[{"id":"E1","resource_type":"payments","action":"charged_back","links":{"payment":"PM1"}}]}`,
		id: "E1", outcome: relay.Disputed, references: []string{"payment=PM1"}, payment: &relay.Payment{ID: "PM1", Exponent: 2},
	},
	{
		preset: "gocardless", name: "refunded", body: `{"events":[{"id":"E1","resource_type":"refunds","action":"paid","links":{"refund":"RF1","payment":"PM1"}}]}`,
		id: "E1", outcome: relay.Refunded, references: []string{"payment=PM1"}, payment: &relay.Payment{ID: "PM1", Exponent: 2},
	},
	{
		preset: "gocardless", name: "cancelled", body: `{"events":[{"id":"E1","resource_type":"billing_requests","action":"cancelled","links":{"billing_request":"BRQ1"}}]}`,
		id: "E1", outcome: relay.Cancelled, references: []string{"billing_request=BRQ1"},
	},
	{
		preset: "google-forms", name: "answers", body: `{"id":"r1","type":"submission","answers":{"token":"tok","Your name":"Ada","Days":["Mon","Tue"]}}`,
		id: "r1", outcome: relay.Completed, token: "tok", references: []string{"response=r1"},
		fields: map[string]any{"Your name": "Ada", "your_name": "Ada", "Days": []any{"Mon", "Tue"}, "days": []any{"Mon", "Tue"}},
	},
	{
		preset: "gravity-forms", name: "entry", header: map[string]string{"Content-Type": "application/json"}, body: `{"id":"7","token":"tok","name":"Ada"}`,
		id: "7", outcome: relay.Completed, token: "tok", fields: map[string]any{"id": "7", "name": "Ada"},
	},
	{
		preset: "haptik", name: "complete", body: `{"version":"1.0","timestamp":"t","event_name":"webhook_conversation_complete","user":{"auth_id":"u-1"},"message":{"id":9}}`,
		id: "webhook_conversation_complete:9", outcome: relay.Completed, token: "u-1",
	},
	{
		preset: "haptik", name: "message", body: `{"event_name":"message","user":{"auth_id":"u-1"},"message":{"id":9}}`,
		id: "message:9", token: "u-1",
	},
	{
		preset: "hubspot-v1", name: "property", body: `[{"eventId":1,"subscriptionId":2,"subscriptionType":"contact.propertyChange","objectId":3,"occurredAt":4,"propertyName":"token","propertyValue":"tok"}]`,
		id: "1:2:3:4", outcome: relay.Completed, token: "tok",
	},
	{
		preset: "hubspot-v3", name: "another property", body: `[{"eventId":1,"subscriptionType":"contact.propertyChange","propertyName":"firstname","propertyValue":"Ada"}]`,
		id: "1:::", token: "Ada",
	},
	{
		preset: "hubspot-v2", name: "workflow", header: map[string]string{"Content-Type": "application/json"}, body: `{"vid":3,"properties":{"token":{"value":"tok"}},"email":"a@b.example"}`,
		outcome: relay.Completed, token: "tok",
		fields: map[string]any{"vid": int64(3), "properties": map[string]any{"token": map[string]any{"value": "tok"}}, "email": "a@b.example"},
	},
	{
		preset: "jotform", name: "answers", form: url.Values{"submissionID": {"s1"}, "rawRequest": {`{"slug":"submit/1/","q3_name":{"first":"Ada"},"q12_token":"tok","q4_yourMail":"a@b.example","qx_no":1}`}},
		id: "s1", outcome: relay.Completed, token: "tok", references: []string{"submission=s1"},
		fields: map[string]any{"name": map[string]any{"first": "Ada"}, "yourMail": "a@b.example", "yourmail": "a@b.example"},
	},
	{
		preset: "jotform", name: "without answers", form: url.Values{"submissionID": {"s1"}, "rawRequest": {"{"}},
		id: "s1", outcome: relay.Completed, references: []string{"submission=s1"}, fields: map[string]any{},
	},
	{
		preset: "klarna-hpp", name: "back", path: "tok", body: `{"event_id":"e1","session":{"session_id":"s1","status":"BACK"}}`,
		id: "e1", outcome: relay.AttemptFailed, token: "tok", references: []string{"session=s1"}, payment: &relay.Payment{ID: "s1", Exponent: 2},
	},
	{
		preset: "klarna-hpp", name: "time is up", path: "tok", body: `{"event_id":"e1","session":{"session_id":"s1","status":"TIMEOUT"}}`,
		id: "e1", outcome: relay.Expired, token: "tok", references: []string{"session=s1"}, payment: &relay.Payment{ID: "s1", Exponent: 2},
	},
	{
		preset: "lemonsqueezy", name: "order", body: `{"meta":{"event_name":"order_created","test_mode":true,"custom_data":{"token":"tok"}},"data":{"type":"orders","id":"1","attributes":{"identifier":"o-1","status":"paid","total":2050,"currency":"EUR","user_email":"a@b.example","store_id":7,"updated_at":"t"}}}`,
		id: "order_created:1:t", outcome: relay.Completed, token: "tok", references: []string{"order=o-1"},
		payment: with(euros("o-1", 2050), func(p *relay.Payment) { p.Live, p.Email, p.Account = ptr(false), "a@b.example", "7" }),
	},
	{
		preset: "lemonsqueezy", name: "renewal declined", body: `{"meta":{"event_name":"subscription_payment_failed"},"data":{"type":"subscription-invoices","id":"1","attributes":{"total":2050,"currency":"EUR"}}}`,
		id: "subscription_payment_failed:1", outcome: relay.AttemptFailed, payment: euros("subscription-invoices:1", 2050),
	},
	{
		preset: "microsoft-forms", name: "answers", header: map[string]string{"Content-Type": "application/json"}, body: `{"form":"f1","id":"4","token":"tok","name":"Ada"}`,
		id: "f1:4", outcome: relay.Completed, token: "tok", fields: map[string]any{"form": "f1", "id": "4", "name": "Ada"},
	},
	{
		preset: "mollie-classic", name: "payment", path: "tok", form: url.Values{"id": {"tr_1"}},
		id: "tr_1", token: "tok", references: []string{"payment=tr_1"},
	},
	{
		preset: "mollie-nextgen", name: "paid", body: `{"id":"event_1","type":"payment-link.paid","entityId":"pl_1","_embedded":{"entity":{"id":"pl_1","mode":"test","description":"tok","profileId":"pfl_1","amount":{"currency":"EUR","value":"20.50"}}}}`,
		id: "event_1", outcome: relay.Completed, token: "tok", references: []string{"entity=pl_1"},
		payment: with(euros("pl_1", 2050), func(p *relay.Payment) { p.Live, p.Account = ptr(false), "pfl_1" }),
	},
	{
		preset: "paddle", name: "refund", body: `{"event_id":"evt_1","event_type":"adjustment.updated","data":{"id":"adj_1","action":"refund","status":"approved","transaction_id":"txn_1","currency_code":"EUR","totals":{"total":"2050"}}}`,
		id: "evt_1", outcome: relay.Refunded, references: []string{"transaction=txn_1"}, payment: euros("txn_1", 2050),
	},
	{
		preset: "paddle", name: "a refund that waits", body: `{"event_id":"evt_1","event_type":"adjustment.created","data":{"id":"adj_1","action":"refund","status":"pending_approval","transaction_id":"txn_1"}}`,
		id: "evt_1", references: []string{"transaction=txn_1"}, payment: &relay.Payment{ID: "txn_1", Exponent: 2},
	},
	{
		preset: "paddle", name: "chargeback", body: `{"event_id":"evt_1","event_type":"adjustment.created","data":{"id":"adj_1","action":"chargeback","status":"approved","transaction_id":"txn_1"}}`,
		id: "evt_1", outcome: relay.Disputed, references: []string{"transaction=txn_1"}, payment: &relay.Payment{ID: "txn_1", Exponent: 2},
	},
	{
		preset: "paddle", name: "paid", body: `{"event_id":"evt_1","event_type":"transaction.completed","data":{"id":"txn_1","subscription_id":"sub_1","currency_code":"EUR","custom_data":{"token":"tok"},"details":{"totals":{"total":"2100","grand_total":"2050"}},"payments":[{"method_details":{"type":"card"}}]}}`,
		id: "evt_1", outcome: relay.Completed, token: "tok", references: []string{"transaction=txn_1"},
		payment: with(euros("txn_1", 2050), func(p *relay.Payment) { p.Method = "card" }),
	},
	{
		preset: "paypal", name: "capture", body: `{"id":"WH-1","event_type":"PAYMENT.CAPTURE.COMPLETED","resource":{"id":"C1","custom_id":"tok","amount":{"value":"20.50","currency_code":"EUR"},"payee":{"merchant_id":"M1"},"supplementary_data":{"related_ids":{"order_id":"O1"}},"links":[{"rel":"self","href":"https://x/C1"},{"rel":"up","href":"https://x/O1"}]}}`,
		id: "WH-1", outcome: relay.Completed, token: "tok", references: []string{"resource=C1", "resource=O1", "link=https://x/C1", "link=https://x/O1"},
		payment: with(euros("C1", 2050), func(p *relay.Payment) { p.Account = "M1" }),
	},
	{
		preset: "paypal", name: "refund", body: `{"id":"WH-1","event_type":"PAYMENT.CAPTURE.REFUNDED","resource":{"id":"R1","amount":{"value":"20.50","currency_code":"EUR"},"links":[{"rel":"up","href":"https://x/C1"}]}}`,
		id: "WH-1", outcome: relay.Refunded, references: []string{"resource=R1", "link=https://x/C1"}, payment: euros("R1", 2050),
	},
	{
		preset: "paypal", name: "dispute", body: `{"id":"WH-1","event_type":"CUSTOMER.DISPUTE.CREATED","resource":{"dispute_id":"D1","disputed_transactions":[{"seller_transaction_id":"C1"}],"dispute_amount":{"value":"20.50","currency_code":"EUR"}}}`,
		id: "WH-1", outcome: relay.Disputed, references: []string{"resource=C1"}, payment: euros("C1", 2050),
	},
	{
		preset: "paypal", name: "approval taken back", body: `{"id":"WH-1","event_type":"CHECKOUT.PAYMENT-APPROVAL.REVERSED","resource":{"id":"O1","purchase_units":[{"custom_id":"tok"}]}}`,
		id: "WH-1", outcome: relay.Cancelled, token: "tok", references: []string{"resource=O1"}, payment: &relay.Payment{ID: "O1", Exponent: 2},
	},
	{
		preset: "payu-india", name: "success", form: url.Values{"mihpayid": {"m1"}, "status": {"success"}, "txnid": {"t1"}, "udf1": {"tok"}, "amount": {"10.00"}, "mode": {"CC"}, "email": {"a@b.example"}, "key": {"K"}},
		id: "m1:success", outcome: relay.Completed, token: "tok", references: []string{"transaction=t1"},
		payment: &relay.Payment{ID: "t1", AmountMinor: ptr(int64(1000)), Currency: "INR", Exponent: 2, Method: "CC", Email: "a@b.example", Account: "K"},
	},
	{
		preset: "payu-latam", name: "pending", form: url.Values{"transaction_id": {"x1"}, "state_pol": {"7"}, "reference_sale": {"tok"}, "extra1": {"another"}, "value": {"150.00"}, "currency": {"COP"}, "test": {"0"}, "merchant_id": {"5"}},
		id: "x1:7", outcome: relay.Processing, token: "tok", references: []string{"sale=tok"},
		payment: &relay.Payment{ID: "tok", AmountMinor: ptr(int64(15000)), Currency: "COP", Exponent: 2, Live: ptr(true), Account: "5"},
	},
	{
		preset: "razorpay", name: "refund", header: map[string]string{"X-Razorpay-Event-Id": "e1"}, body: `{"event":"refund.processed","account_id":"acc_1","payload":{"refund":{"entity":{"id":"rfnd_1","payment_id":"pay_1","amount":500,"currency":"INR"}},"payment":{"entity":{"id":"pay_1","order_id":"order_1","amount":2050,"currency":"INR","method":"upi","email":"a@b.example","notes":[]}}}}`,
		id: "e1", outcome: relay.Refunded, references: []string{"order=order_1", "payment=pay_1"},
		payment: &relay.Payment{ID: "pay_1", AmountMinor: ptr(int64(500)), Currency: "INR", Exponent: 2, Method: "upi", Email: "a@b.example", Account: "acc_1"},
	},
	{
		preset: "razorpay", name: "dispute of old", body: `{"event":"payment.dispute.created","payload":{"payment":{"entity":{"id":"pay_1"}},"dispute":{"entity":{"id":"disp_1","payment_id":"pay_1","amount":500,"currency":"INR"}}}}`,
		id: "payment.dispute.created:pay_1", outcome: relay.Disputed, references: []string{"payment=pay_1"},
		payment: &relay.Payment{ID: "pay_1", AmountMinor: ptr(int64(500)), Currency: "INR", Exponent: 2},
	},
	{
		preset: "razorpay-link-return", name: "paid", query: "razorpay_payment_id=pay_1&razorpay_payment_link_id=plink_1&razorpay_payment_link_reference_id=tok&razorpay_payment_link_status=paid",
		id: "pay_1:paid", outcome: relay.Completed, token: "tok", references: []string{"payment_link=plink_1", "payment=pay_1"}, payment: &relay.Payment{ID: "pay_1", Exponent: 2},
	},
	{
		preset: "shopify", name: "refund", header: map[string]string{"X-Shopify-Topic": "refunds/create", "X-Shopify-Webhook-Id": "w1", "X-Shopify-Shop-Domain": "shop.example"}, body: `{"id":1,"order_id":820982911946154508,"transactions":[{"amount":"20.50","currency":"EUR"}]}`,
		id: "w1", outcome: relay.Refunded, references: []string{"order=gid://shopify/Order/820982911946154508"},
		payment: with(euros("gid://shopify/Order/820982911946154508", 2050), func(p *relay.Payment) { p.Account = "shop.example" }),
	},
	{
		preset: "shopify", name: "of the newer Events", header: map[string]string{"Shopify-Topic": "Order", "Shopify-Event-Id": "e1", "Shopify-Webhook-Id": "w1", "Shopify-Shop-Domain": "shop.example"},
		body: `{"topic":"Order","action":"update","handle":"paid","fields_changed":{"added":[],"updated":["order.displayFinancialStatus"],"removed":[]}}`,
		id:   "e1:Order/update",
	},
	{
		preset: "shopify", name: "of another topic", header: map[string]string{"X-Shopify-Topic": "orders/paid", "X-Shopify-Event-Id": "e1"}, body: `{"financial_status":"pending","note":"tok"}`,
		id: "e1:orders/paid", token: "tok",
	},
	{
		preset: "shopify", name: "paid", header: map[string]string{"X-Shopify-Topic": "orders/paid", "X-Shopify-Event-Id": "e1"}, body: `{"id":820982911946154508,"admin_graphql_api_id":"gid://shopify/Order/820982911946154508","total_price":"20.50","financial_status":"paid","currency":"EUR","email":"a@b.example","test":false,"payment_gateway_names":["visa"],"note":"please ring","note_attributes":[{"name":"token","value":"tok"}]}`,
		id: "e1:orders/paid", outcome: relay.Completed, token: "tok", references: []string{"order=gid://shopify/Order/820982911946154508"},
		payment: with(euros("gid://shopify/Order/820982911946154508", 2050), func(p *relay.Payment) {
			p.Method, p.Email, p.Live = "visa", "a@b.example", ptr(true)
		}),
	},
	{
		preset: "smartify", name: "message", body: `{"timestamp":1,"hook":{"event":"message.create"},"payload":{"_id":"m1","recipient":"support-group-1","text":"hello","attributes":{"token":"tok"}}}`,
		id: "message.create:m1", outcome: relay.Completed, token: "tok",
		fields: map[string]any{"_id": "m1", "id": "m1", "recipient": "support-group-1", "text": "hello", "attributes": map[string]any{"token": "tok"}},
	},
	{
		preset: "smartify", name: "message, sent again with another subscription's hook", query: "event=message.create&key=k",
		body: `{"timestamp":1,"hook":{"_id":"other","event":"request.create"},"payload":{"_id":"m1","sender":"u-1","recipient":"support-group-1","text":"hello"}}`,
		id:   "message.create:m1", outcome: relay.Completed, token: "support-group-1",
		fields: map[string]any{"_id": "m1", "id": "m1", "sender": "u-1", "recipient": "support-group-1", "text": "hello"},
	},
	{
		preset: "smartify", name: "what the relay has said", body: `{"hook":{"event":"message.create"},"payload":{"_id":"m1","sender":"u-1","recipient":"support-group-1","attributes":{"relay_delivery_id":"0193"}}}`,
		id: "message.create:m1", token: "support-group-1",
		fields: map[string]any{"_id": "m1", "id": "m1", "sender": "u-1", "recipient": "support-group-1", "attributes": map[string]any{"relay_delivery_id": "0193"}},
	},
	{
		preset: "smartify", name: "what a bot says", body: `{"hook":{"event":"message.create"},"payload":{"_id":"m1","sender":"bot_65","recipient":"support-group-1"}}`,
		id: "message.create:m1", token: "support-group-1",
		fields: map[string]any{"_id": "m1", "id": "m1", "sender": "bot_65", "recipient": "support-group-1"},
	},
	{
		preset: "smartify", name: "what the server says", body: `{"hook":{"event":"message.create"},"payload":{"_id":"m1","sender":"system","recipient":"support-group-1"}}`,
		id: "message.create:m1", token: "support-group-1",
		fields: map[string]any{"_id": "m1", "id": "m1", "sender": "system", "recipient": "support-group-1"},
	},
	{
		preset: "square", name: "refund", body: `{"merchant_id":"M1","type":"refund.updated","event_id":"e1","data":{"object":{"refund":{"id":"r1","payment_id":"p1","order_id":"o1","status":"COMPLETED","amount_money":{"amount":2050,"currency":"EUR"}}}}}`,
		id: "e1", outcome: relay.Refunded, references: []string{"payment=p1", "order=o1"}, payment: with(euros("p1", 2050), func(p *relay.Payment) { p.Account = "M1" }),
	},
	{
		preset: "square", name: "dispute", body: `{"merchant_id":"M1","type":"dispute.created","event_id":"e1","data":{"object":{"dispute":{"disputed_payment":{"payment_id":"p1"},"amount_money":{"amount":2050,"currency":"EUR"}}}}}`,
		id: "e1", outcome: relay.Disputed, references: []string{"payment=p1"}, payment: with(euros("p1", 2050), func(p *relay.Payment) { p.Account = "M1" }),
	},
	{
		preset: "square", name: "paid", body: `{"merchant_id":"M1","type":"payment.updated","event_id":"e1","data":{"object":{"payment":{"id":"p1","order_id":"o1","note":"tok","status":"COMPLETED","source_type":"CARD","buyer_email_address":"a@b.example","amount_money":{"amount":2000,"currency":"EUR"},"total_money":{"amount":2050,"currency":"EUR"}}}}}`,
		id: "e1", outcome: relay.Completed, token: "tok", references: []string{"payment=p1", "order=o1"},
		payment: with(euros("p1", 2050), func(p *relay.Payment) { p.Account, p.Method, p.Email = "M1", "CARD", "a@b.example" }),
	},
	{
		preset: "surveymonkey", name: "response", body: `{"event_id":"e1","event_type":"response_completed","object_id":"r1"}`,
		id: "e1", references: []string{"response=r1"},
	},
	{
		preset: "tally", name: "answers", body: `{"eventId":"e1","eventType":"FORM_RESPONSE","data":{"responseId":"r1","fields":[{"key":"k1","label":"token","type":"HIDDEN_FIELDS","value":"tok"},{"key":"k2","label":"Your name","type":"INPUT_TEXT","value":"Ada"},{"key":"k3","label":"Colours","type":"CHECKBOXES","value":["a","c"],"options":[{"id":"a","text":"Red"},{"id":"b","text":"Blue"}]},{"key":"k4","label":null,"type":"DROPDOWN","value":"b","options":[{"id":"b","text":"Blue"}]}]}}`,
		id: "e1", outcome: relay.Completed, token: "tok", references: []string{"response=r1"},
		fields: map[string]any{"Your name": "Ada", "your_name": "Ada", "Colours": []any{"Red", "c"}, "colours": []any{"Red", "c"}, "k4": "Blue"},
	},
	{
		preset: "twilio", name: "pay", query: "token=tok", form: url.Values{"CallSid": {"CA1"}, "Result": {"payment-connector-error"}},
		id: "CA1:payment-connector-error", outcome: relay.AttemptFailed, token: "tok", references: []string{"call=CA1"},
		fields: map[string]any{"CallSid": "CA1", "callsid": "CA1", "Result": "payment-connector-error", "result": "payment-connector-error"},
	},
	{
		preset: "typeform", name: "answers", body: `{"event_id":"e1","event_type":"form_response","form_response":{"token":"r1","hidden":{"token":"tok"},"definition":{"fields":[{"id":"f1","title":"Your name?"},{"id":"f2","title":"Days"}]},"answers":[{"type":"text","text":"Ada","field":{"id":"f1","ref":"name_ref"}},{"type":"choices","choices":{"labels":["Mon","Tue"]},"field":{"id":"f2","ref":"days"}},{"type":"number","number":4.5,"field":{"id":"f3"}},{"type":"boolean","boolean":false,"field":{"ref":"ok"}},{"type":"choice","choice":{"label":"Red"},"field":{"ref":"colour"}}]}}`,
		id: "e1", outcome: relay.Completed, token: "tok", references: []string{"response=r1"},
		fields: map[string]any{
			"name_ref": "Ada", "your_name": "Ada", "days": []any{"Mon", "Tue"}, "f3": 4.5, "ok": false, "colour": "Red",
		},
	},
	{
		preset: "webflow", name: "answers", body: `{"triggerType":"form_submission","payload":{"id":"s1","data":{"First Name":"Ada","Phone":15550000000,"conversation_token":"tok"}}}`,
		id: "s1", outcome: relay.Completed, token: "tok", references: []string{"submission=s1"},
		fields: map[string]any{"First Name": "Ada", "first_name": "Ada", "Phone": int64(15550000000), "phone": int64(15550000000)},
	},
	{
		preset: "woocommerce", name: "refunded", header: map[string]string{"X-WC-Webhook-Topic": "order.updated", "X-WC-Webhook-Delivery-ID": "d1", "X-WC-Webhook-Source": "https://shop.example/"}, body: `{"id":727,"order_key":"wc_order_1","status":"refunded","total":"20.50","currency":"EUR","payment_method":"bacs","transaction_id":"x","billing":{"email":"a@b.example"},"meta_data":[{"key":"token","value":"tok"}]}`,
		id: "d1:727:refunded", outcome: relay.Refunded, token: "tok", references: []string{"order=wc_order_1"},
		payment: with(euros("wc_order_1", 2050), func(p *relay.Payment) {
			p.Method, p.Email, p.Account = "bacs", "a@b.example", "https://shop.example/"
		}),
	},
}

func (s *sample) request(t *testing.T) *provider.Request {
	t.Helper()
	req := &provider.Request{Method: "POST", PathToken: s.path, Header: http.Header{}, Body: []byte(s.body)}
	for name, value := range s.header {
		req.Header.Set(name, value)
	}
	if s.form != nil {
		req.Header.Set("Content-Type", urlencoded)
		req.Body = []byte(s.form.Encode())
	}
	var err error
	if req.Query, err = url.ParseQuery(s.query); err != nil {
		t.Fatal(err)
	}
	return req
}

func TestNormalForm(t *testing.T) {
	for _, s := range samples {
		t.Run(s.preset+"/"+s.name, func(t *testing.T) {
			got := read(t, endpoint(t, s.preset, provider.Settings{}), s.request(t))
			if got.EventID != s.id || got.Outcome != s.outcome {
				t.Errorf("got id %q, outcome %q, want %q, %q", got.EventID, got.Outcome, s.id, s.outcome)
			}
			token := ""
			if len(got.Candidates) > 0 {
				token = got.Candidates[0].Value
			}
			if token != s.token {
				t.Errorf("token: got %q, want %q", token, s.token)
			}
			var references []string
			for _, r := range got.References {
				references = append(references, r.Place+"="+r.Value)
			}
			if diff := cmp.Diff(s.references, references); diff != "" {
				t.Errorf("references (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(s.payment, got.Payment); diff != "" {
				t.Errorf("payment (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(s.fields, got.Form); diff != "" {
				t.Errorf("form (-want +got):\n%s", diff)
			}
			checkStorable(t, got)
		})
	}
}

// TestEveryPresetHasASample holds that no preset stands without a callback that
// shows its normal form. The generic ones, Stripe's and the forms of our own
// have tests of their own.
func TestEveryPresetHasASample(t *testing.T) {
	for _, name := range provider.Names() {
		own := strings.HasPrefix(name, "generic-") || slices.Contains([]string{"stripe", "form", "html-form", "github", "standard-webhooks", "standard-webhooks-v1a", "svix"}, name)
		if !own && !slices.ContainsFunc(samples, func(s sample) bool { return s.preset == name }) {
			t.Errorf("%s: got no sample, want one", name)
		}
	}
}
