package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"

	"github.com/vishvananda/netlink"
)

const configurationFile = "/etc/cni/net.d/10-podnet.conflist"

type object = map[string]any

// configuration is the CNI configuration list of a node: a pair of interfaces per pod, with an address out of the
// node's range, and the host ports that a pod asks for.
func configuration(podRange string) ([]byte, error) {
	addresses := object{
		"type":    "host-local",
		"dataDir": "/run/podnet", // empty after a restart of the node, as are its pods
		"ranges":  [][]object{{{"subnet": podRange}}},
		"routes":  []object{{"dst": "0.0.0.0/0"}},
	}
	return json.MarshalIndent(object{
		"cniVersion": "1.0.0",
		"name":       "podnet",
		"plugins": []object{
			// The node's entrypoint masquerades what leaves the cluster.
			{"type": "ptp", "ipMasq": false, "ipam": addresses},
			{"type": "portmap", "capabilities": object{"portMappings": true}},
		},
	}, "", "  ")
}

// writeConfiguration puts the configuration in its place by a rename: containerd reads it when it appears.
func writeConfiguration(podRange string) error {
	wanted, err := configuration(podRange)
	if err != nil {
		return err
	}
	if there, err := os.ReadFile(configurationFile); err == nil && bytes.Equal(there, wanted) {
		return nil
	}
	unfinished := configurationFile + ".new"
	if err := os.WriteFile(unfinished, wanted, 0o644); err != nil {
		return err
	}
	return os.Rename(unfinished, configurationFile)
}

// routeTo sends what is addressed to another node's pods to that node.
func routeTo(podRange, address string) error {
	_, destination, err := net.ParseCIDR(podRange)
	if err != nil {
		return err
	}
	gateway := net.ParseIP(address)
	if gateway == nil {
		return fmt.Errorf("it has no address yet")
	}
	return netlink.RouteReplace(&netlink.Route{Dst: destination, Gw: gateway})
}
