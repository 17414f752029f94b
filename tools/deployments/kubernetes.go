package deployments

import (
	"errors"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	"sigs.k8s.io/yaml"
)

const (
	manifests = "deploy/kubernetes"
	example   = ".example.yaml" // for reading, not applied
)

// cluster is what the manifests ask for.
type cluster struct {
	namespaces  []*corev1.Namespace
	deployments []*appsv1.Deployment
	jobs        []*batchv1.Job
	services    []*corev1.Service
	secrets     []*corev1.Secret
	budgets     []*policyv1.PodDisruptionBudget
	policies    []*networkingv1.NetworkPolicy
	ingresses   []*networkingv1.Ingress
}

// kustomization is as much of that file as is used; anything else in it is
// refused, so that this check does not pass over what it does not know.
type kustomization struct {
	APIVersion string   `json:"apiVersion"`
	Kind       string   `json:"kind"`
	Namespace  string   `json:"namespace"`
	Resources  []string `json:"resources"`
	Images     []struct {
		Name    string `json:"name"`
		NewName string `json:"newName"`
		NewTag  string `json:"newTag"`
		Digest  string `json:"digest"`
	} `json:"images"`
}

func checkKubernetes(f *findings, p program, i image) {
	k := checkKustomization(f)
	var c cluster
	entries, err := fs.ReadDir(f.root, manifests)
	if err != nil {
		f.add(manifests, "%v", err)
	}
	for _, e := range entries {
		name := e.Name()
		if name == "kustomization.yaml" || !strings.HasSuffix(name, ".yaml") {
			continue
		}
		applied := slices.Contains(k.Resources, name)
		f.want(applied != strings.HasSuffix(name, example), path.Join(manifests, name),
			"kustomization.yaml has it: %t; want it to have all but the examples", applied)
		c.decode(f, path.Join(manifests, name))
	}
	if len(c.namespaces) != 1 || len(c.deployments) != 1 || len(c.jobs) != 1 || len(c.secrets) != 1 || len(c.budgets) != 1 {
		f.add(manifests, "want one Namespace, Deployment, Job, Secret and PodDisruptionBudget")
		return
	}
	f.want(c.namespaces[0].Name == k.Namespace, manifests, "the namespace is %s, kustomization.yaml's %s", c.namespaces[0].Name, k.Namespace)
	f.want(c.namespaces[0].Labels["pod-security.kubernetes.io/enforce"] == "restricted", manifests, "the namespace is not restricted")
	checkNodes(f, p, i, c.deployments[0])
	checkMigration(f, c.jobs[0])
	checkPod(f, p, i, manifests+"/deployment.yaml", c.deployments[0].Spec.Template.Spec, c.secrets[0])
	checkPod(f, p, i, manifests+"/migrate.yaml", c.jobs[0].Spec.Template.Spec, c.secrets[0])
	c.checkReferences(f, i)
	checkExample(f, c.secrets[0])
}

func checkKustomization(f *findings) (k kustomization) {
	const file = manifests + "/kustomization.yaml"
	if err := yaml.UnmarshalStrict([]byte(f.read(file)), &k); err != nil {
		f.add(file, "%v", err)
	}
	for _, r := range k.Resources {
		f.want(f.exists(path.Join(manifests, r)), file, "%s does not exist", r)
	}
	f.want(len(k.Images) == 1 && k.Images[0].Name == "relay" && k.Images[0].NewTag != "latest", file,
		"the images are %+v, want relay alone, by a tag that stays", k.Images)
	return k
}

var documents = regexp.MustCompile(`(?m)^---\n`)

// decode reads a file into Kubernetes' types. A field that they do not have,
// or that is there twice, is refused.
func (c *cluster) decode(f *findings, file string) {
	for _, document := range documents.Split(f.read(file), -1) {
		var kind struct{ APIVersion, Kind string }
		err := yaml.Unmarshal([]byte(document), &kind)
		switch kind.APIVersion + " " + kind.Kind {
		case "v1 Namespace":
			err = into(document, &c.namespaces)
		case "apps/v1 Deployment":
			err = into(document, &c.deployments)
		case "batch/v1 Job":
			err = into(document, &c.jobs)
		case "v1 Service":
			err = into(document, &c.services)
		case "v1 Secret":
			err = into(document, &c.secrets)
		case "policy/v1 PodDisruptionBudget":
			err = into(document, &c.budgets)
		case "networking.k8s.io/v1 NetworkPolicy":
			err = into(document, &c.policies)
		case "networking.k8s.io/v1 Ingress":
			err = into(document, &c.ingresses)
		default:
			err = errors.Join(err, errors.New("unknown kind "+kind.APIVersion+" "+kind.Kind))
		}
		if err != nil {
			f.add(file, "%v", err)
		}
	}
}

func into[T any](document string, list *[]*T) error {
	object := new(T)
	*list = append(*list, object)
	return yaml.UnmarshalStrict([]byte(document), object)
}

// checkNodes holds the Deployment to what a node needs.
func checkNodes(f *findings, p program, i image, d *appsv1.Deployment) {
	const file = manifests + "/deployment.yaml"
	f.want(d.Spec.Replicas != nil && *d.Spec.Replicas == 3, file, "want three replicas")
	pod := d.Spec.Template.Spec
	if len(pod.Containers) != 1 {
		f.add(file, "%d containers, want one", len(pod.Containers))
		return
	}
	c := pod.Containers[0]
	f.want(slices.Equal(c.Args, []string{"serve"}), file, "it runs %v, want serve", c.Args)
	given := func(name string) string { return variable(c, name) }
	f.want(given("RELAY_MIGRATE") == "check", file, "RELAY_MIGRATE is %q, want check: the Job migrates", given("RELAY_MIGRATE"))
	if pod.TerminationGracePeriodSeconds == nil {
		f.add(file, "terminationGracePeriodSeconds is not set: 30 s are not for sure enough")
	} else {
		p.checkGrace(f, file, seconds(*pod.TerminationGracePeriodSeconds), given)
	}
	var ports []int32
	for _, port := range c.Ports {
		ports = append(ports, port.ContainerPort)
	}
	f.want(slices.Equal(ports, i.ports), file, "the ports are %v, the image's %v", ports, i.ports)
	checkProbe(f, p, c, c.StartupProbe, "startupProbe", "/readyz")
	checkProbe(f, p, c, c.ReadinessProbe, "readinessProbe", "/readyz")
	checkProbe(f, p, c, c.LivenessProbe, "livenessProbe", "/healthz")
}

// checkProbe holds a probe to ask the operations port for a path that it has.
func checkProbe(f *findings, p program, c corev1.Container, probe *corev1.Probe, name, route string) {
	const file = manifests + "/deployment.yaml"
	if probe == nil || probe.HTTPGet == nil {
		f.add(file, "there is no %s by HTTP", name)
		return
	}
	get := probe.HTTPGet
	f.want(get.Path == route && slices.Contains(p.routes, get.Path), file, "%s asks for %s, want %s", name, get.Path, route)
	ops := slices.ContainsFunc(c.Ports, func(port corev1.ContainerPort) bool {
		return port.Name == "ops" && (get.Port.StrVal == port.Name || get.Port.IntVal == port.ContainerPort)
	})
	f.want(ops, file, "%s asks the port %s, want ops", name, get.Port.String())
}

func checkMigration(f *findings, job *batchv1.Job) {
	const file = manifests + "/migrate.yaml"
	containers := job.Spec.Template.Spec.Containers
	f.want(len(containers) == 1 && slices.Equal(containers[0].Args, []string{"migrate", "up"}), file, "want one container that runs migrate up")
	f.want(job.Spec.Template.Spec.RestartPolicy == corev1.RestartPolicyNever, file, "want restartPolicy: Never, for the log of each try")
}

// checkPod holds a pod to what is true of all that run the program: the
// profile `restricted` and more, its settings, and its files.
func checkPod(f *findings, p program, i image, file string, pod corev1.PodSpec, secret *corev1.Secret) {
	isFalse := func(b *bool) bool { return b != nil && !*b }
	isTrue := func(b *bool) bool { return b != nil && *b }
	f.want(isFalse(pod.AutomountServiceAccountToken), file, "want automountServiceAccountToken: false")
	f.want(isFalse(pod.EnableServiceLinks), file, "want enableServiceLinks: false: they look like settings")
	s := pod.SecurityContext
	f.want(s != nil && isTrue(s.RunAsNonRoot) && s.RunAsUser != nil && *s.RunAsUser == i.user, file, "want runAsNonRoot as the image's user %d", i.user)
	f.want(s != nil && s.SeccompProfile != nil && s.SeccompProfile.Type == corev1.SeccompProfileTypeRuntimeDefault, file, "want seccompProfile RuntimeDefault")
	for _, c := range pod.Containers {
		f.want(c.Image == "relay" && c.Command == nil, file, "the image is %s, command %v; want relay, which kustomization.yaml replaces, and its entrypoint", c.Image, c.Command)
		p.checkCommand(f, file, c.Args)
		s := c.SecurityContext
		f.want(s != nil && isFalse(s.AllowPrivilegeEscalation) && isTrue(s.ReadOnlyRootFilesystem), file, "%s: want no privilege escalation and a read-only root", c.Name)
		f.want(s != nil && s.Capabilities != nil && slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}), file, "%s: want all capabilities dropped", c.Name)
		f.want(!c.Resources.Requests.Memory().IsZero() && !c.Resources.Limits.Memory().IsZero(), file, "%s: want memory requested and limited", c.Name)
		checkMemory(f, file, c)
		for _, env := range c.Env {
			p.checkSetting(f, file, env.Name)
			if strings.HasSuffix(env.Name, "_FILE") {
				f.want(mounted(env.Value, c, pod, secret), file, "%s: no volume puts %s there out of the Secret", env.Name, env.Value)
			}
		}
	}
}

// checkMemory holds Go's own limit under the container's.
func checkMemory(f *findings, file string, c corev1.Container) {
	limit := variable(c, "GOMEMLIMIT")
	if limit == "" {
		return
	}
	soft, err := quantity(strings.TrimSuffix(limit, "B"))
	f.want(err == nil && soft.Cmp(*c.Resources.Limits.Memory()) < 0, file, "GOMEMLIMIT is %s, want it under the limit of %s", limit, c.Resources.Limits.Memory())
}

// mounted reports whether a file comes out of the Secret.
func mounted(file string, c corev1.Container, pod corev1.PodSpec, secret *corev1.Secret) bool {
	for _, m := range c.VolumeMounts {
		for _, v := range pod.Volumes {
			if v.Name != m.Name || v.Secret == nil || v.Secret.SecretName != secret.Name || path.Dir(file) != m.MountPath {
				continue
			}
			key := path.Base(file)
			if _, ok := secret.StringData[key]; !ok {
				return false
			}
			wanted := func(item corev1.KeyToPath) bool { return item.Key == key && item.Path == key }
			return len(v.Secret.Items) == 0 || slices.ContainsFunc(v.Secret.Items, wanted)
		}
	}
	return false
}

// checkExample holds the Secret that is shown to hold nothing that works.
// That the program refuses its values is a test of the program's own.
func checkExample(f *findings, secret *corev1.Secret) {
	f.want(len(secret.Data) == 0, manifests+"/secret.example.yaml", "want stringData, which people can read")
	for _, key := range slices.Sorted(maps.Keys(secret.StringData)) {
		f.want(secret.StringData[key] == "REPLACE-ME", manifests+"/secret.example.yaml", "%s is not REPLACE-ME", key)
	}
}
