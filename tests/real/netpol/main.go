// Command netpol reads {"policies": […], "traffic": […]} from its standard input and writes for each traffic whether the
// NetworkPolicies let it pass, as the cyclonus project reads them.
package main

import (
	"encoding/json"
	"log"
	"os"

	"github.com/mattfenwick/cyclonus/pkg/matcher"
	networkingv1 "k8s.io/api/networking/v1"
)

type question struct {
	Policies []*networkingv1.NetworkPolicy `json:"policies"`
	Traffic  []*matcher.Traffic            `json:"traffic"`
}

func main() {
	var asked question
	decoder := json.NewDecoder(os.Stdin)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&asked); err != nil {
		log.Fatal(err)
	}
	policy := matcher.BuildNetworkPolicies(false, asked.Policies)
	passes := make([]bool, 0, len(asked.Traffic))
	for _, one := range asked.Traffic {
		passes = append(passes, policy.IsTrafficAllowed(one).IsAllowed())
	}
	if err := json.NewEncoder(os.Stdout).Encode(passes); err != nil {
		log.Fatal(err)
	}
}
