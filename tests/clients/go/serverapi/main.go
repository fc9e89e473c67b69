// Serverapi drives a server's admin socket with SPIRE's published API module, as SPIRE's own tools do. It does
// one thing, named by its second argument, and tells what happened as JSON lines on stdout.
//
//	serverapi SOCKET create-entry PARENT SPIFFE_ID TYPE:VALUE…   an `entry` event
//	serverapi SOCKET list-entries [PAGE_SIZE]                    an `entry` event each, then `done`
//	serverapi SOCKET count-entries                               a `count` event
//	serverapi SOCKET delete-entry ID                             a `deleted` event
//	serverapi SOCKET create-join-token [SPIFFE_ID]               a `token` event
//	serverapi SOCKET list-agents                                 an `agent` event each, then `done`
//	serverapi SOCKET bundle                                      a `bundle` event
//	serverapi SOCKET mint-jwt SPIFFE_ID AUDIENCE                 a `jwt` event
//	serverapi SOCKET authority-state                             an `authority` event for each X.509 authority
//	serverapi SOCKET authority STEP [ID]                         an `authority` event; STEP is prepare, activate,
//	                                                             taint, revoke or taint-upstream
package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	agentv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/agent/v1"
	bundlev1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/bundle/v1"
	entryv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/entry/v1"
	localauthorityv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/localauthority/v1"
	svidv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/svid/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"vouchsafe/tests/clients/event"
)

func parseID(id string) (*types.SPIFFEID, error) {
	rest, found := strings.CutPrefix(id, "spiffe://")
	domain, path, slash := strings.Cut(rest, "/")
	if !found || !slash {
		return nil, fmt.Errorf("not a SPIFFE ID with a path: %q", id)
	}
	return &types.SPIFFEID{TrustDomain: domain, Path: "/" + path}, nil
}

func showID(id *types.SPIFFEID) string {
	return "spiffe://" + id.GetTrustDomain() + id.GetPath()
}

func tellEntry(entry *types.Entry) {
	selectors := []string{}
	for _, selector := range entry.Selectors {
		selectors = append(selectors, selector.Type+":"+selector.Value)
	}
	event.Emit("entry", event.Fields{
		"id": entry.Id, "parent_id": showID(entry.ParentId), "spiffe_id": showID(entry.SpiffeId),
		"selectors": selectors, "x509_svid_ttl": entry.X509SvidTtl, "revision": entry.RevisionNumber,
		"created_at": entry.CreatedAt,
	})
}

// good turns the status inside a batch's answer into an error.
func good(told *types.Status) error {
	if told.GetCode() == 0 {
		return nil
	}
	return status.Error(codes.Code(told.GetCode()), told.GetMessage())
}

func createEntry(ctx context.Context, connection *grpc.ClientConn, arguments []string) error {
	parent, err := parseID(arguments[0])
	if err != nil {
		return err
	}
	id, err := parseID(arguments[1])
	if err != nil {
		return err
	}
	entry := &types.Entry{ParentId: parent, SpiffeId: id}
	for _, selector := range arguments[2:] {
		kind, value, found := strings.Cut(selector, ":")
		if !found {
			return fmt.Errorf("not a selector: %q", selector)
		}
		entry.Selectors = append(entry.Selectors, &types.Selector{Type: kind, Value: value})
	}
	request := &entryv1.BatchCreateEntryRequest{Entries: []*types.Entry{entry}}
	answer, err := entryv1.NewEntryClient(connection).BatchCreateEntry(ctx, request)
	if err != nil {
		return err
	}
	for _, result := range answer.Results {
		if err := good(result.Status); err != nil {
			return err
		}
		tellEntry(result.Entry)
	}
	return nil
}

func listEntries(ctx context.Context, connection *grpc.ClientConn, arguments []string) error {
	request := &entryv1.ListEntriesRequest{}
	if len(arguments) > 0 {
		size, err := strconv.ParseInt(arguments[0], 10, 32)
		if err != nil {
			return err
		}
		request.PageSize = int32(size)
	}
	client, entries, pages := entryv1.NewEntryClient(connection), 0, 0
	for {
		answer, err := client.ListEntries(ctx, request)
		if err != nil {
			return err
		}
		pages++
		for _, entry := range answer.Entries {
			entries++
			tellEntry(entry)
		}
		if request.PageToken = answer.NextPageToken; request.PageToken == "" {
			event.Emit("done", event.Fields{"entries": entries, "pages": pages})
			return nil
		}
	}
}

func deleteEntry(ctx context.Context, connection *grpc.ClientConn, arguments []string) error {
	request := &entryv1.BatchDeleteEntryRequest{Ids: arguments[:1]}
	answer, err := entryv1.NewEntryClient(connection).BatchDeleteEntry(ctx, request)
	if err != nil {
		return err
	}
	for _, result := range answer.Results {
		if err := good(result.Status); err != nil {
			return err
		}
		event.Emit("deleted", event.Fields{"id": result.Id})
	}
	return nil
}

func countEntries(ctx context.Context, connection *grpc.ClientConn, _ []string) error {
	answer, err := entryv1.NewEntryClient(connection).CountEntries(ctx, &entryv1.CountEntriesRequest{})
	if err != nil {
		return err
	}
	event.Emit("count", event.Fields{"entries": answer.Count})
	return nil
}

func createJoinToken(ctx context.Context, connection *grpc.ClientConn, arguments []string) error {
	request := &agentv1.CreateJoinTokenRequest{Ttl: 600}
	if len(arguments) > 0 {
		id, err := parseID(arguments[0])
		if err != nil {
			return err
		}
		request.AgentId = id
	}
	answer, err := agentv1.NewAgentClient(connection).CreateJoinToken(ctx, request)
	if err != nil {
		return err
	}
	event.Emit("token", event.Fields{"value": answer.Value, "expires_at": answer.ExpiresAt})
	return nil
}

func listAgents(ctx context.Context, connection *grpc.ClientConn, _ []string) error {
	answer, err := agentv1.NewAgentClient(connection).ListAgents(ctx, &agentv1.ListAgentsRequest{})
	if err != nil {
		return err
	}
	for _, agent := range answer.Agents {
		event.Emit("agent", event.Fields{
			"spiffe_id": showID(agent.Id), "attestation_type": agent.AttestationType, "banned": agent.Banned,
			"serial": agent.X509SvidSerialNumber, "expires_at": agent.X509SvidExpiresAt,
		})
	}
	event.Emit("done", event.Fields{"agents": len(answer.Agents)})
	return nil
}

func bundle(ctx context.Context, connection *grpc.ClientConn, _ []string) error {
	answer, err := bundlev1.NewBundleClient(connection).GetBundle(ctx, &bundlev1.GetBundleRequest{})
	if err != nil {
		return err
	}
	tainted := 0
	for _, authority := range answer.X509Authorities {
		if authority.Tainted {
			tainted++
		}
	}
	event.Emit("bundle", event.Fields{
		"trust_domain": answer.TrustDomain, "x509_authorities": len(answer.X509Authorities),
		"jwt_authorities": len(answer.JwtAuthorities), "sequence": answer.SequenceNumber, "tainted": tainted,
	})
	return nil
}

func mintJWT(ctx context.Context, connection *grpc.ClientConn, arguments []string) error {
	id, err := parseID(arguments[0])
	if err != nil {
		return err
	}
	request := &svidv1.MintJWTSVIDRequest{Id: id, Audience: arguments[1:]}
	answer, err := svidv1.NewSVIDClient(connection).MintJWTSVID(ctx, request)
	if err != nil {
		return err
	}
	event.Emit("jwt", event.Fields{"token": answer.Svid.Token, "spiffe_id": showID(answer.Svid.Id), "expires_at": answer.Svid.ExpiresAt})
	return nil
}

func tellAuthority(state string, authority *localauthorityv1.AuthorityState) {
	if authority != nil {
		event.Emit("authority", event.Fields{
			"state": state, "id": authority.AuthorityId, "expires_at": authority.ExpiresAt,
			"upstream": authority.UpstreamAuthoritySubjectKeyId,
		})
	}
}

func authorityState(ctx context.Context, connection *grpc.ClientConn, _ []string) error {
	client := localauthorityv1.NewLocalAuthorityClient(connection)
	answer, err := client.GetX509AuthorityState(ctx, &localauthorityv1.GetX509AuthorityStateRequest{})
	if err != nil {
		return err
	}
	tellAuthority("active", answer.Active)
	tellAuthority("prepared", answer.Prepared)
	tellAuthority("old", answer.Old)
	return nil
}

func authority(ctx context.Context, connection *grpc.ClientConn, arguments []string) error {
	client := localauthorityv1.NewLocalAuthorityClient(connection)
	step, id := arguments[0], ""
	if len(arguments) > 1 {
		id = arguments[1]
	}
	var state *localauthorityv1.AuthorityState
	var err error
	switch step {
	case "prepare":
		var answer *localauthorityv1.PrepareX509AuthorityResponse
		answer, err = client.PrepareX509Authority(ctx, &localauthorityv1.PrepareX509AuthorityRequest{})
		state = answer.GetPreparedAuthority()
	case "activate":
		var answer *localauthorityv1.ActivateX509AuthorityResponse
		answer, err = client.ActivateX509Authority(ctx, &localauthorityv1.ActivateX509AuthorityRequest{AuthorityId: id})
		state = answer.GetActivatedAuthority()
	case "taint":
		var answer *localauthorityv1.TaintX509AuthorityResponse
		answer, err = client.TaintX509Authority(ctx, &localauthorityv1.TaintX509AuthorityRequest{AuthorityId: id})
		state = answer.GetTaintedAuthority()
	case "revoke":
		var answer *localauthorityv1.RevokeX509AuthorityResponse
		answer, err = client.RevokeX509Authority(ctx, &localauthorityv1.RevokeX509AuthorityRequest{AuthorityId: id})
		state = answer.GetRevokedAuthority()
	case "taint-upstream":
		request := &localauthorityv1.TaintX509UpstreamAuthorityRequest{SubjectKeyId: id}
		_, err = client.TaintX509UpstreamAuthority(ctx, request)
	default:
		return fmt.Errorf("unknown step %q", step)
	}
	if err != nil {
		return err
	}
	tellAuthority(step, state)
	return nil
}

type verb struct {
	arguments int
	call      func(context.Context, *grpc.ClientConn, []string) error
}

var verbs = map[string]verb{
	"create-entry":      {3, createEntry},
	"list-entries":      {0, listEntries},
	"count-entries":     {0, countEntries},
	"delete-entry":      {1, deleteEntry},
	"create-join-token": {0, createJoinToken},
	"list-agents":       {0, listAgents},
	"bundle":            {0, bundle},
	"mint-jwt":          {2, mintJWT},
	"authority-state":   {0, authorityState},
	"authority":         {1, authority},
}

func run(arguments []string) error {
	if len(arguments) < 2 {
		return fmt.Errorf("usage: serverapi SOCKET VERB …; the head of main.go lists the verbs")
	}
	what, known := verbs[arguments[1]]
	if !known || len(arguments)-2 < what.arguments {
		return fmt.Errorf("wrong arguments %q: the head of main.go lists the right ones", arguments[1:])
	}
	connection, err := grpc.NewClient("unix:"+arguments[0], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	return what.call(ctx, connection, arguments[2:])
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		event.Emit("error", event.Fields{"code": event.Code(err), "message": err.Error()})
		os.Exit(1)
	}
}
