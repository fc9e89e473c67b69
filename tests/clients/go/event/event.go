// Package event tells what happened as JSON lines on stdout, which is how the tests read a peer.
package event

import (
	"encoding/json"
	"errors"
	"os"
	"strings"
	"sync"
	"unicode"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Fields are the members of a line, besides its name.
type Fields map[string]any

var output sync.Mutex

// Emit writes one line.
func Emit(name string, more Fields) {
	line := Fields{"event": name}
	for key, value := range more {
		line[key] = value
	}
	output.Lock()
	defer output.Unlock()
	// Only a closed stdout can fail here, and then nobody reads.
	_ = json.NewEncoder(os.Stdout).Encode(line)
}

// Code is the gRPC status code somewhere along an error's causes, as the standards write it.
func Code(err error) any {
	for ; err != nil; err = errors.Unwrap(err) {
		if told, ok := status.FromError(err); ok && told.Code() != codes.OK {
			return shout(told.Code().String())
		}
	}
	return nil
}

// shout makes PERMISSION_DENIED of PermissionDenied.
func shout(name string) string {
	if name == codes.Canceled.String() {
		return "CANCELLED"
	}
	var out strings.Builder
	for index, letter := range name {
		if index > 0 && unicode.IsUpper(letter) {
			out.WriteByte('_')
		}
		out.WriteRune(unicode.ToUpper(letter))
	}
	return out.String()
}
