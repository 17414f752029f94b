package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"time"

	"relay.example/relay/internal/sandbox"
)

// sandboxCommand runs the stand-ins on their own.
type sandboxCommand struct {
	Address         string `default:"127.0.0.1:8090" help:"Where the stand-ins listen."`
	CertainlyToken  string `default:"sandbox-token" help:"The token that Certainly's stand-in takes."`
	HaptikToken     string `default:"sandbox-token" help:"The token that Haptik's stand-in takes."`
	HaptikNodeURL   string `name:"haptik-node-url" help:"What the node of Haptik's bot calls: the relay's /bots/haptik/PROJECT/FLOW. Empty: there is no node."`
	NodeSecret      string `name:"haptik-node-secret" default:"sandbox-node-secret" help:"What it signs with: the haptik destination's node_secret."`
	UserengageToken string `default:"sandbox-token" help:"The key that User.com's stand-in takes."`
	HookSecret      string `help:"The secret (whsec_…) that calls to the bot of one's own are signed with; empty: they need not be."`
	WebhookURL      string `help:"Where the pay page sends its Stripe callbacks: a stripe source's webhook_url."`
	StripeAPIKey    string `default:"sk_test_sandbox" help:"The key that the stand-in for Stripe's API takes."`
	WebhookSecret   string `default:"whsec_sandbox" help:"The secret that it signs them with."`
}

// Run serves the stand-ins until ctx is done.
func (c *sandboxCommand) Run(ctx context.Context, p *program) error {
	listener, err := listen(ctx, c.Address)
	if err != nil {
		return fmt.Errorf("--address: %w", err)
	}
	address := "http://" + listener.Addr().String()
	stripe := sandbox.Stripe{Secret: c.WebhookSecret, APIKey: c.StripeAPIKey}
	if c.WebhookURL != "" {
		stripe.WebhookURL = func() string { return c.WebhookURL }
	}
	node := sandbox.HaptikNode{Secret: c.NodeSecret}
	if c.HaptikNodeURL != "" {
		node.URL = func() string { return c.HaptikNodeURL }
	}
	box := sandbox.New(sandbox.Config{
		CertainlyToken: c.CertainlyToken, HaptikToken: c.HaptikToken, HaptikNode: node, UserengageToken: c.UserengageToken, WebhookSecret: c.HookSecret,
		Stripe: stripe, Logger: newLogger(p.stderr, "text"),
	})
	fmt.Fprintf(p.stdout, "Certainly's stand-in: base_url %s/certainly, token %s\n", address, c.CertainlyToken)
	fmt.Fprintf(p.stdout, "Haptik: base_url %s/haptik, token %s, any client_id and business_id\n", address, c.HaptikToken)
	if c.HaptikNodeURL != "" {
		fmt.Fprintf(p.stdout, "Haptik's chat, with a way to its node: %s/sandbox/chat/me?platform=haptik\n", address)
	}
	fmt.Fprintf(p.stdout, "Smartify: base_url %s/smartify, project_id %s; to subscribe, username %s, password %s\n",
		address, sandbox.SmartifyProject, sandbox.SmartifyUsername, sandbox.SmartifyPassword)
	fmt.Fprintf(p.stdout, "User.com: base_url %s/userengage, token %s, any user\n", address, c.UserengageToken)
	fmt.Fprintf(p.stdout, "A bot of one's own: url %s/webhook/bot\n", address)
	fmt.Fprintf(p.stdout, "Stripe's API: base_url %s/stripe, api_key %s\n", address, c.StripeAPIKey)
	fmt.Fprintf(p.stdout, "Mollie's API: base_url %s/mollie, any api_key\n", address)
	fmt.Fprintf(p.stdout, "Pay page: %s/pay/demo   Overview: %s/\n", address, address)
	return serveSandbox(ctx, box, listener)
}

// serveSandbox serves until ctx is done.
func serveSandbox(ctx context.Context, box http.Handler, l net.Listener) error {
	server := &http.Server{Handler: box, ReadHeaderTimeout: 5 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	return serve(server, l)
}
