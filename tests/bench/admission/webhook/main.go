// webhook does what dot-injector does to a pod that asks, with the framework that most webhooks are written with: controller-runtime.
//
// It is spared the decision and the configuration: what it writes, it has from a pod that dot-injector injected (-injected), and
// puts into each pod as it is. Its patch is then the same.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"syscall"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	"sigs.k8s.io/controller-runtime/pkg/webhook"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"
)

const (
	inject    = "dot-sidecar.io/inject"
	container = "dot-proxy"
	volume    = "dot-sidecar-config"
)

// injector puts what it found in one pod into others.
type injector struct {
	decoder admission.Decoder
	model   corev1.Pod
}

func (i *injector) Handle(_ context.Context, request admission.Request) admission.Response {
	pod := &corev1.Pod{}
	if err := i.decoder.Decode(request, pod); err != nil {
		return admission.Errored(http.StatusBadRequest, err)
	}
	if pod.Annotations[inject] != "true" {
		return admission.Allowed("not asked")
	}
	if pod.Spec.HostNetwork {
		return admission.Denied("spec.hostNetwork: the pod uses its node's network")
	}
	i.into(pod)
	after, err := json.Marshal(pod)
	if err != nil {
		return admission.Errored(http.StatusInternalServerError, err)
	}
	return admission.PatchResponseFromRaw(request.Object.Raw, after)
}

func (i *injector) into(pod *corev1.Pod) {
	model := &i.model
	if pod.Labels == nil {
		pod.Labels = map[string]string{}
	}
	for name, value := range model.Labels {
		pod.Labels[name] = value
	}
	for name, value := range model.Annotations {
		pod.Annotations[name] = value
	}
	kept := []corev1.Container{model.Spec.InitContainers[0]}
	for _, other := range pod.Spec.InitContainers {
		if other.Name != container {
			kept = append(kept, other)
		}
	}
	pod.Spec.InitContainers = kept
	for _, added := range model.Spec.Volumes {
		if added.Name == volume {
			pod.Spec.Volumes = append(pod.Spec.Volumes, added)
		}
	}
	pod.Spec.DNSPolicy, pod.Spec.DNSConfig = model.Spec.DNSPolicy, model.Spec.DNSConfig
	if pod.Spec.SecurityContext == nil {
		pod.Spec.SecurityContext = &corev1.PodSecurityContext{}
	}
	pod.Spec.SecurityContext.Sysctls = append(pod.Spec.SecurityContext.Sysctls, model.Spec.SecurityContext.Sysctls...)
}

func run() error {
	port := flag.Int("port", 9443, "where to listen")
	certificates := flag.String("certificates", ".", "folder with tls.crt and tls.key")
	injected := flag.String("injected", "", "a pod that dot-injector injected, in JSON")
	flag.Parse()

	ctrl.SetLogger(zap.New())
	scheme := runtime.NewScheme()
	if err := clientgoscheme.AddToScheme(scheme); err != nil {
		return err
	}
	handler := &injector{decoder: admission.NewDecoder(scheme)}
	text, err := os.ReadFile(*injected)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, &handler.model); err != nil {
		return fmt.Errorf("%s: %w", *injected, err)
	}
	server := webhook.NewServer(webhook.Options{Port: *port, CertDir: *certificates})
	server.Register("/mutate/annotated", &admission.Webhook{Handler: handler})
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	return server.Start(ctx)
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "webhook:", err)
		os.Exit(1)
	}
}
