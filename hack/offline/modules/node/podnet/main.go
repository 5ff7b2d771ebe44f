// Command podnet connects the pods of a kind cluster. It runs on every node in the host's network and keeps two
// things as the API server's list of nodes says: the CNI configuration for the node's own range of pod addresses,
// and a route to every other node's range.
package main

import (
	"fmt"
	"log"
	"os"
	"strings"
	"time"
)

const (
	lookEvery  = 2 * time.Second
	retryAfter = 500 * time.Millisecond // kube-proxy may not have programmed the API server's address yet
)

func main() {
	self := os.Getenv("NODE_NAME")
	api, err := newAPI()
	if err != nil {
		log.Fatal(err)
	}
	for last := ""; ; {
		done, err := connect(api, self)
		wait := lookEvery
		if err != nil {
			done, wait = "error: "+err.Error(), retryAfter
		}
		// Only what changed: the log is what somebody reads when pods cannot reach each other.
		if done != last {
			log.Print(done)
			last = done
		}
		time.Sleep(wait)
	}
}

// connect does what the list of nodes asks of this one, and returns a line that says what that was.
func connect(api *api, self string) (string, error) {
	nodes, err := api.nodes()
	if err != nil {
		return "", err
	}
	var done []string
	for _, node := range nodes {
		switch {
		case node.podRange == "":
			// The controller manager has not given it one yet.
			continue
		case node.name == self:
			err = writeConfiguration(node.podRange)
		default:
			err = routeTo(node.podRange, node.address)
		}
		if err != nil {
			return "", fmt.Errorf("%s: %w", node.name, err)
		}
		done = append(done, node.name+" "+node.podRange)
	}
	return strings.Join(done, ", "), nil
}
