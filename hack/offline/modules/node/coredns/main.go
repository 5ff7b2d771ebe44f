// Command coredns is CoreDNS with the plugins that kubeadm's Corefile names and no others. The providers of
// commercial clouds, which are left out, make up most of the time that the full server takes to compile.
package main

import (
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"
	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/forward"
	_ "github.com/coredns/coredns/plugin/health"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/loadbalance"
	_ "github.com/coredns/coredns/plugin/loop"
	_ "github.com/coredns/coredns/plugin/metrics"
	_ "github.com/coredns/coredns/plugin/ready"
	_ "github.com/coredns/coredns/plugin/reload"
)

func main() {
	// A query passes through the plugins in this order, whatever the order in the Corefile is: what observes comes
	// before what answers, and forward, which sends on what nobody here knows, is last.
	dnsserver.Directives = []string{
		"reload", "ready", "health", "prometheus", "errors",
		"cache", "loadbalance", "loop", "kubernetes", "forward",
	}
	coremain.Run()
}
