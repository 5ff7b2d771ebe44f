package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"
)

const (
	accountFolder = "/var/run/secrets/kubernetes.io/serviceaccount"
	answerWithin  = 5 * time.Second
)

// api asks the API server as this pod's service account.
type api struct {
	client *http.Client
	url    string
}

type node struct{ name, podRange, address string }

func newAPI() (*api, error) {
	authority, err := os.ReadFile(accountFolder + "/ca.crt")
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(authority) {
		return nil, errors.New("the service account's ca.crt has no certificate")
	}
	host := net.JoinHostPort(os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT"))
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
	return &api{&http.Client{Timeout: answerWithin, Transport: transport}, "https://" + host}, nil
}

// nodes returns the cluster's nodes; what is not known of one yet is empty.
func (a *api) nodes() ([]node, error) {
	// The kubelet renews the token in this file.
	token, err := os.ReadFile(accountFolder + "/token")
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequest(http.MethodGet, a.url+"/api/v1/nodes?resourceVersion=0", nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", "Bearer "+string(token))
	answer, err := a.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("list of nodes: %s", answer.Status)
	}
	var list struct {
		Items []struct {
			Metadata struct{ Name string }
			Spec     struct{ PodCIDR string }
			Status   struct {
				Addresses []struct{ Type, Address string }
			}
		}
	}
	if err := json.NewDecoder(answer.Body).Decode(&list); err != nil {
		return nil, fmt.Errorf("list of nodes: %w", err)
	}
	nodes := make([]node, 0, len(list.Items))
	for _, item := range list.Items {
		found := node{name: item.Metadata.Name, podRange: item.Spec.PodCIDR}
		for _, each := range item.Status.Addresses {
			if each.Type == "InternalIP" {
				found.address = each.Address
			}
		}
		nodes = append(nodes, found)
	}
	return nodes, nil
}
