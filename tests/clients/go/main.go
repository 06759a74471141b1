// The scenario of tests/clients by OpenBao's own Go client: one JSON line for each step.
//
// BAO_ADDR and BAO_TOKEN say where and who, as for any program that uses this client.
package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"os"

	"github.com/openbao/openbao/api/v2"
)

type outcome struct {
	Step   string `json:"step"`
	OK     bool   `json:"ok"`
	Status int    `json:"status,omitempty"`
	Data   any    `json:"data"`
}

var out = json.NewEncoder(os.Stdout)

func step(name string, do func() (any, error)) {
	data, err := do()
	result := outcome{Step: name, OK: err == nil, Data: data}
	if err != nil {
		result.Data = err.Error()
		var answered *api.ResponseError
		if errors.As(err, &answered) {
			result.Status, result.Data = answered.StatusCode, answered.Errors
		} else if errors.Is(err, api.ErrSecretNotFound) {
			result.Status = 404
		}
	}
	if err := out.Encode(result); err != nil {
		panic(err)
	}
}

// data is what a secret says, without the request's id.
func data(secret *api.Secret, err error) (any, error) {
	if err != nil || secret == nil {
		return nil, err
	}
	return map[string]any{"data": secret.Data, "lease_id": secret.LeaseID, "warnings": secret.Warnings}, nil
}

func whole(secret *api.KVSecret, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	return map[string]any{"data": secret.Data, "version": secret.VersionMetadata}, nil
}

func nothing(err error) (any, error) { return nil, err }

func main() {
	client, err := api.NewClient(api.DefaultConfig())
	if err != nil {
		panic(err)
	}
	ctx, logical := context.Background(), client.Logical()
	kv2, kv1 := client.KVv2("secret"), client.KVv1("kv1")
	path, odd := "clients/go/one", os.Args[1]
	text := func(value string) map[string]any { return map[string]any{"v": value} }

	step("lookup_self", func() (any, error) { return data(client.Auth().Token().LookupSelf()) })
	step("preflight", func() (any, error) { return data(logical.Read("sys/internal/ui/mounts/secret/" + path)) })
	step("health", func() (any, error) { return client.Sys().Health() })
	step("seal_status", func() (any, error) { return client.Sys().SealStatus() })
	step("leader", func() (any, error) { return client.Sys().Leader() })

	step("kv2_put", func() (any, error) { return whole(kv2.Put(ctx, path, text("one"))) })
	step("kv2_put_again", func() (any, error) {
		return whole(kv2.Put(ctx, path, text("two"), api.WithCheckAndSet(1)))
	})
	step("kv2_put_stale", func() (any, error) {
		return whole(kv2.Put(ctx, path, text("three"), api.WithCheckAndSet(1)))
	})
	step("kv2_get", func() (any, error) { return whole(kv2.Get(ctx, path)) })
	step("kv2_get_version", func() (any, error) { return whole(kv2.GetVersion(ctx, path, 1)) })
	step("kv2_patch", func() (any, error) { return whole(kv2.Patch(ctx, path, map[string]any{"w": "more"})) })
	step("kv2_patch_by_reading", func() (any, error) {
		return whole(kv2.Patch(ctx, path, map[string]any{"x": "yet more"}, api.WithMergeMethod(api.KVMergeMethodReadWrite)))
	})
	step("kv2_subkeys", func() (any, error) { return data(logical.Read("secret/subkeys/" + path)) })
	step("kv2_list", func() (any, error) { return data(logical.List("secret/metadata/clients/go")) })
	step("kv2_list_page", func() (any, error) { return data(logical.ListPage("secret/metadata/clients/go/", "", 1)) })
	step("kv2_metadata_put", func() (any, error) {
		return nothing(kv2.PutMetadata(ctx, path, api.KVMetadataPutInput{
			CustomMetadata: map[string]any{"team": "x"}, MaxVersions: 9,
		}))
	})
	step("kv2_metadata_patch", func() (any, error) {
		return nothing(kv2.PatchMetadata(ctx, path, api.KVMetadataPatchInput{
			CustomMetadata: map[string]any{"stage": "y"},
		}))
	})
	step("kv2_metadata_get", func() (any, error) { return kv2.GetMetadata(ctx, path) })
	step("kv2_delete", func() (any, error) { return nothing(kv2.Delete(ctx, path)) })
	step("kv2_get_deleted", func() (any, error) { return whole(kv2.Get(ctx, path)) })
	step("kv2_undelete", func() (any, error) { return nothing(kv2.Undelete(ctx, path, []int{4})) })
	step("kv2_rollback", func() (any, error) { return whole(kv2.Rollback(ctx, path, 1)) })
	step("kv2_delete_versions", func() (any, error) { return nothing(kv2.DeleteVersions(ctx, path, []int{1, 2})) })
	step("kv2_destroy", func() (any, error) { return nothing(kv2.Destroy(ctx, path, []int{2})) })
	step("kv2_versions", func() (any, error) { return kv2.GetVersionsAsList(ctx, path) })
	step("kv2_odd_put", func() (any, error) { return whole(kv2.Put(ctx, "clients/go/"+odd, text("odd"))) })
	step("kv2_odd_get", func() (any, error) { return whole(kv2.Get(ctx, "clients/go/"+odd)) })
	step("kv2_odd_list", func() (any, error) { return data(logical.List("secret/metadata/clients/go")) })
	step("kv2_missing", func() (any, error) { return whole(kv2.Get(ctx, "clients/go/none")) })
	step("kv2_denied", func() (any, error) { return whole(kv2.Get(ctx, "denied/x")) })
	step("kv2_delete_all", func() (any, error) {
		if err := kv2.DeleteMetadata(ctx, "clients/go/"+odd); err != nil {
			return nil, err
		}
		return nothing(kv2.DeleteMetadata(ctx, path))
	})

	step("kv1_put", func() (any, error) { return nothing(kv1.Put(ctx, path, text("one"))) })
	step("kv1_get", func() (any, error) {
		secret, err := kv1.Get(ctx, path)
		if err != nil {
			return nil, err
		}
		return secret.Data, nil
	})
	step("kv1_list", func() (any, error) { return data(logical.List("kv1/clients/go")) })
	step("kv1_delete", func() (any, error) { return nothing(kv1.Delete(ctx, path)) })
	step("kv1_missing", func() (any, error) { return data(logical.Read("kv1/" + path)) })

	plain := base64.StdEncoding.EncodeToString([]byte("plain"))
	step("transit_create", func() (any, error) { return data(logical.Write("transit/keys/clients-go", nil)) })
	step("transit_round_trip", func() (any, error) {
		secret, err := logical.Write("transit/encrypt/clients-go", map[string]any{"plaintext": plain})
		if err != nil {
			return nil, err
		}
		return data(logical.Write("transit/decrypt/clients-go", map[string]any{"ciphertext": secret.Data["ciphertext"]}))
	})
	step("transit_batch", func() (any, error) {
		return data(logical.Write("transit/hmac/clients-go", map[string]any{
			"batch_input": []any{map[string]any{"input": plain}, map[string]any{"input": plain}},
		}))
	})
	step("transit_rotate", func() (any, error) { return data(logical.Write("transit/keys/clients-go/rotate", nil)) })
	step("transit_read_key", func() (any, error) { return data(logical.Read("transit/keys/clients-go")) })
	step("transit_list", func() (any, error) { return data(logical.List("transit/keys")) })

	step("foreign_mount", func() (any, error) { return whole(client.KVv2("team/kv").Get(ctx, "app/db")) })
	step("namespace", func() (any, error) {
		return whole(client.WithNamespace("ns1").KVv2("secret").Put(ctx, path, text("in ns1")))
	})
	step("wrapped", func() (any, error) {
		wrapping := client.WithNamespace("")
		wrapping.SetWrappingLookupFunc(func(string, string) string { return "60s" })
		return data(wrapping.Logical().Read("secret/data/app/db"))
	})
	step("login", func() (any, error) {
		return data(logical.Write("auth/userpass/login/alice", map[string]any{"password": "alice-pass"}))
	})
	step("renew_self", func() (any, error) { return data(client.Auth().Token().RenewSelf(60)) })
	step("revoke_self", func() (any, error) { return nothing(client.Auth().Token().RevokeSelf("")) })
}
