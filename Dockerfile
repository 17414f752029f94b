# The image of `relay`: one static program in an otherwise empty image.
#
#   docker build -t relay --build-arg VERSION=v1.2.0 --build-arg COMMIT="$(git rev-parse HEAD)" .

# The minor version is go.mod's; `make deployments` holds them together.
ARG GO_VERSION=1.26.8

# Built on the machine's own platform for the wanted one: Go needs no emulator.
FROM --platform=$BUILDPLATFORM golang:${GO_VERSION}-bookworm AS build
WORKDIR /src
# The compiler is this image's; another one is not fetched behind our back.
ENV CGO_ENABLED=0 GOTOOLCHAIN=local
COPY go.mod go.sum ./
RUN go mod download
COPY cmd ./cmd
COPY internal ./internal
COPY migrations ./migrations
COPY templates ./templates
ARG TARGETOS
ARG TARGETARCH
ARG VERSION=unknown
ARG COMMIT=unknown
# As `make release` builds. There is no .git here for Go to ask.
RUN --mount=type=cache,target=/root/.cache/go-build \
    GOOS=${TARGETOS} GOARCH=${TARGETARCH} go build -trimpath -buildvcs=false \
    -ldflags "-s -w -X main.linkedVersion=${VERSION} -X main.linkedCommit=${COMMIT}" \
    -o /out/relay ./cmd/relay

# No shell and no packages: nothing to exploit, and nothing to update but Go.
# Time zones are not needed, since the relay works in UTC only.
FROM scratch
ARG VERSION=unknown
ARG COMMIT=unknown
LABEL org.opencontainers.image.title="relay" \
      org.opencontainers.image.description="Resumes the bot conversations that wait for a payment or a form" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${COMMIT}"
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/relay /relay
COPY LICENSE /LICENSE
# A number, so that Kubernetes can see that it is not root.
USER 65532:65532
# Inside a container loopback is nobody's. The operations port asks for no key:
# publish it to those who may see it only.
ENV RELAY_LISTEN=:8080 RELAY_OPS_LISTEN=:9090
EXPOSE 8080 9090
# The image serves other commands too (migrate, sandbox), for which this says
# nothing; whoever runs them sets their own or none.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["/relay", "ping"]
# SIGTERM is Docker's default and the relay's sign to drain. Docker waits 10 s
# by itself; the relay wants RELAY_DRAIN_DELAY + RELAY_SHUTDOWN_TIMEOUT (25 s).
ENTRYPOINT ["/relay"]
CMD ["serve"]
