package deployments

import (
	"maps"
	"path"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

func seconds(n int64) time.Duration { return time.Duration(n) * time.Second }

func quantity(text string) (resource.Quantity, error) { return resource.ParseQuantity(text) }

// variable is the value of a container's variable, or empty.
func variable(c corev1.Container, name string) string {
	for _, env := range c.Env {
		if env.Name == name {
			return env.Value
		}
	}
	return ""
}

// checkReferences holds what points at something to something that is there.
// Kubernetes accepts a selector that selects nothing.
func (c *cluster) checkReferences(f *findings, i image) {
	nodes, job := c.deployments[0].Spec.Template, c.jobs[0].Spec.Template
	selects := func(file, what string, s *metav1.LabelSelector, pods ...map[string]string) {
		selector, err := metav1.LabelSelectorAsSelector(s)
		for _, pod := range pods {
			if err == nil && selector.Matches(labels.Set(pod)) {
				return
			}
		}
		f.add(path.Join(manifests, file), "%s selects no pod", what)
	}
	selects("deployment.yaml", "the Deployment", c.deployments[0].Spec.Selector, nodes.Labels)
	for _, spread := range nodes.Spec.TopologySpreadConstraints {
		selects("deployment.yaml", "topologySpreadConstraints", spread.LabelSelector, nodes.Labels)
	}
	selects("disruption.yaml", "the budget", c.budgets[0].Spec.Selector, nodes.Labels)
	f.want(!maps.Equal(nodes.Labels, job.Labels), manifests, "the Job's pods have the nodes' labels: they would get requests")
	for _, s := range c.services {
		selects("service.yaml", s.Name, &metav1.LabelSelector{MatchLabels: s.Spec.Selector}, nodes.Labels)
		for _, port := range s.Spec.Ports {
			f.want(containerPort(nodes.Spec, port.TargetPort.StrVal) != 0, manifests+"/service.yaml", "%s: no container has the port %s", s.Name, port.TargetPort.String())
		}
		f.want(s.Spec.Type == "" || s.Spec.Type == corev1.ServiceTypeClusterIP, manifests+"/service.yaml", "%s: it is reachable from outside the cluster", s.Name)
	}
	c.checkPolicies(f, i, selects)
	c.checkIngresses(f)
}

// checkPolicies holds that every pod has a policy, and that the operations
// port, which asks for no key, is not for everybody.
func (c *cluster) checkPolicies(f *findings, i image, selects func(string, string, *metav1.LabelSelector, ...map[string]string)) {
	const file = manifests + "/network.yaml"
	nodes, job := c.deployments[0].Spec.Template, c.jobs[0].Spec.Template
	f.want(len(c.policies) == 2, file, "%d policies, want one of the nodes and one of the Job", len(c.policies))
	for _, policy := range c.policies {
		selects("network.yaml", policy.Name, &policy.Spec.PodSelector, nodes.Labels, job.Labels)
		for _, rule := range policy.Spec.Ingress {
			f.want(len(rule.Ports) > 0, file, "%s: a rule lets everybody reach every port", policy.Name)
			for _, port := range rule.Ports {
				if port.Port == nil {
					f.add(file, "%s: a rule lets through every port", policy.Name)
					continue
				}
				number := port.Port.IntVal
				if port.Port.StrVal != "" {
					number = containerPort(nodes.Spec, port.Port.StrVal)
				}
				f.want(number != 0, file, "%s: no container has the port %s", policy.Name, port.Port.String())
				ops := len(i.ports) == 2 && number == i.ports[1]
				f.want(!ops || len(rule.From) > 0, file, "%s: everybody reaches the operations port", policy.Name)
			}
		}
	}
}

// checkIngresses holds the example to a service that is there, and never the
// operations'.
func (c *cluster) checkIngresses(f *findings) {
	const file = manifests + "/ingress.example.yaml"
	for _, ingress := range c.ingresses {
		for _, rule := range ingress.Spec.Rules {
			if rule.HTTP == nil {
				f.add(file, "a rule without paths")
				continue
			}
			for _, p := range rule.HTTP.Paths {
				to := p.Backend.Service
				f.want(to != nil && c.public(to.Name, to.Port.Name), file, "%s leads to no public port of a Service", p.Path)
			}
		}
	}
}

// public reports whether a Service has a port that is not the operations'.
func (c *cluster) public(service, port string) bool {
	for _, s := range c.services {
		for _, p := range s.Spec.Ports {
			if s.Name == service && p.Name == port && p.TargetPort.StrVal != "ops" {
				return true
			}
		}
	}
	return false
}

// containerPort is the number of a named port, or 0.
func containerPort(pod corev1.PodSpec, name string) int32 {
	for _, c := range pod.Containers {
		for _, p := range c.Ports {
			if p.Name == name {
				return p.ContainerPort
			}
		}
	}
	return 0
}
