// Peer is a workload that uses go-spiffe. It does one thing, named by its first argument, and tells what
// happened as JSON lines on stdout; SPIFFE_ENDPOINT_SOCKET says where the Workload API is.
//
//	x509                          every X.509-SVID and bundle once: an `x509` event
//	watch-x509                    an `x509` event for each update, until stdin closes
//	jwt AUDIENCE…                 a JWT-SVID: a `jwt` event
//	validate-jwt AUDIENCE TOKEN   check a token by the Workload API: a `validated` event
//	verify-jwt AUDIENCE TOKEN     check a token offline with the JWT bundles: a `validated` event
//	listen PEER                   take mTLS connections from PEER, echo a line: `listening`, `accepted`, `refused`
//	dial ADDRESS PEER LINE        send a line over mTLS to PEER: a `reply` event
package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"vouchsafe/tests/clients/event"
)

const timeout = 30 * time.Second

func describe(svid *x509svid.SVID) event.Fields {
	leaf := svid.Certificates[0]
	return event.Fields{
		"spiffe_id": svid.ID.String(),
		"serial":    leaf.SerialNumber.Text(16),
		"not_after": leaf.NotAfter.Unix(),
		"chain":     len(svid.Certificates),
		"hint":      svid.Hint,
	}
}

func authorities(bundles *x509bundle.Set) event.Fields {
	counts := event.Fields{}
	for _, bundle := range bundles.Bundles() {
		counts[bundle.TrustDomain().Name()] = len(bundle.X509Authorities())
	}
	return counts
}

func tellX509(update *workloadapi.X509Context) {
	svids := []event.Fields{}
	for _, svid := range update.SVIDs {
		svids = append(svids, describe(svid))
	}
	event.Emit("x509", event.Fields{"svids": svids, "bundles": authorities(update.Bundles)})
}

// watcher tells every update of a stream. An error is told too; go-spiffe goes on by itself.
type watcher struct{}

func (watcher) OnX509ContextUpdate(update *workloadapi.X509Context) { tellX509(update) }

func (watcher) OnX509ContextWatchError(err error) {
	event.Emit("stream", event.Fields{"code": event.Code(err), "message": err.Error()})
}

func onceX509(ctx context.Context) error {
	update, err := workloadapi.FetchX509Context(ctx)
	if err != nil {
		return err
	}
	tellX509(update)
	return nil
}

func watchX509() error {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	err := workloadapi.WatchX509Context(ctx, watcher{})
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func tellJWT(name string, svid *jwtsvid.SVID, more event.Fields) {
	told := event.Fields{"spiffe_id": svid.ID.String(), "audience": svid.Audience, "expires_at": svid.Expiry.Unix()}
	for name, value := range more {
		told[name] = value
	}
	event.Emit(name, told)
}

func fetchJWT(ctx context.Context, audiences []string) error {
	source, err := workloadapi.NewJWTSource(ctx)
	if err != nil {
		return err
	}
	defer source.Close()
	params := jwtsvid.Params{Audience: audiences[0], ExtraAudiences: audiences[1:]}
	svid, err := source.FetchJWTSVID(ctx, params)
	if err != nil {
		return err
	}
	tellJWT("jwt", svid, event.Fields{"token": svid.Marshal()})
	return nil
}

func validateJWT(ctx context.Context, audience, token string) error {
	svid, err := workloadapi.ValidateJWTSVID(ctx, token, audience)
	if err != nil {
		return err
	}
	tellJWT("validated", svid, nil)
	return nil
}

func verifyJWT(ctx context.Context, audience, token string) error {
	source, err := workloadapi.NewJWTSource(ctx)
	if err != nil {
		return err
	}
	defer source.Close()
	svid, err := jwtsvid.ParseAndValidate(token, source, []string{audience})
	if err != nil {
		return err
	}
	tellJWT("validated", svid, nil)
	return nil
}

func serveOne(connection net.Conn) {
	defer connection.Close()
	_ = connection.SetDeadline(time.Now().Add(timeout))
	line, err := bufio.NewReader(connection).ReadString('\n')
	if err == nil {
		_, err = io.WriteString(connection, line)
	}
	if err != nil {
		event.Emit("refused", event.Fields{"reason": err.Error()})
		return
	}
	peer, err := spiffetls.PeerIDFromConn(connection)
	if err != nil {
		event.Emit("refused", event.Fields{"reason": err.Error()})
		return
	}
	event.Emit("accepted", event.Fields{"peer": peer.String(), "line": strings.TrimRight(line, "\n")})
}

func listen(ctx context.Context, peer string) error {
	id, err := spiffeid.FromString(peer)
	if err != nil {
		return err
	}
	source, err := workloadapi.NewX509Source(ctx)
	if err != nil {
		return err
	}
	defer source.Close()
	mode := spiffetls.MTLSServerWithSource(tlsconfig.AuthorizeID(id), source)
	listener, err := spiffetls.ListenWithMode(ctx, "tcp", "127.0.0.1:0", mode)
	if err != nil {
		return err
	}
	event.Emit("listening", event.Fields{"address": listener.Addr().String()})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		listener.Close()
	}()
	for {
		connection, err := listener.Accept()
		if err != nil {
			// Closed, because stdin was.
			return nil
		}
		serveOne(connection)
	}
}

func dial(ctx context.Context, address, peer, line string) error {
	id, err := spiffeid.FromString(peer)
	if err != nil {
		return err
	}
	connection, err := spiffetls.Dial(ctx, "tcp", address, tlsconfig.AuthorizeID(id))
	if err != nil {
		return err
	}
	defer connection.Close()
	_ = connection.SetDeadline(time.Now().Add(timeout))
	if _, err := io.WriteString(connection, line+"\n"); err != nil {
		return err
	}
	reply, err := bufio.NewReader(connection).ReadString('\n')
	if err != nil {
		return err
	}
	answered, err := spiffetls.PeerIDFromConn(connection)
	if err != nil {
		return err
	}
	event.Emit("reply", event.Fields{"peer": answered.String(), "line": strings.TrimRight(reply, "\n")})
	return nil
}

func run(arguments []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	wanted := map[string]int{"x509": 1, "watch-x509": 1, "validate-jwt": 3, "verify-jwt": 3, "listen": 2, "dial": 4}
	count, known := wanted[arguments[0]]
	if arguments[0] == "jwt" {
		count, known = max(2, len(arguments)), true
	}
	if !known || len(arguments) != count {
		return fmt.Errorf("wrong arguments %q: the head of main.go lists the right ones", arguments)
	}
	switch rest := arguments[1:]; arguments[0] {
	case "x509":
		return onceX509(ctx)
	case "watch-x509":
		return watchX509()
	case "jwt":
		return fetchJWT(ctx, rest)
	case "validate-jwt":
		return validateJWT(ctx, rest[0], rest[1])
	case "verify-jwt":
		return verifyJWT(ctx, rest[0], rest[1])
	case "listen":
		return listen(ctx, rest[0])
	default:
		return dial(ctx, rest[0], rest[1], rest[2])
	}
}

func main() {
	if len(os.Args) < 2 {
		os.Args = append(os.Args, "")
	}
	if err := run(os.Args[1:]); err != nil {
		event.Emit("error", event.Fields{"code": event.Code(err), "message": err.Error()})
		os.Exit(1)
	}
}
