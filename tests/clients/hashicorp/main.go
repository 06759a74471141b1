// What HashiCorp's own Go client does with the engines that the sidecar names, one JSON line for each step.
//
// VAULT_ADDR and VAULT_TOKEN say where and who, as for any program that uses this client.
package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"os"

	"github.com/hashicorp/vault/api"
)

var out = json.NewEncoder(os.Stdout)

func step(name string, data any, err error) {
	result := map[string]any{"step": name, "ok": err == nil, "data": data}
	if err != nil {
		result["data"] = err.Error()
		if answered, is := err.(*api.ResponseError); is {
			result["status"] = answered.StatusCode
		}
	}
	if err := out.Encode(result); err != nil {
		panic(err)
	}
}

func values(secret *api.Secret, err error) (any, error) {
	if err != nil || secret == nil {
		return nil, err
	}
	return secret.Data, nil
}

func main() {
	client, err := api.NewClient(api.DefaultConfig())
	if err != nil {
		panic(err)
	}
	ctx := context.Background()
	kv2, kv1, logical := client.KVv2("secret"), client.KVv1("kv1"), client.Logical()

	written, err := kv2.Put(ctx, "hashicorp/one", map[string]any{"user": "u", "password": "p"})
	step("kv2_put", written.VersionMetadata.Version, err)
	read, err := kv2.Get(ctx, "hashicorp/one")
	step("kv2_get", read.Data, err)
	patched, err := kv2.Patch(ctx, "hashicorp/one", map[string]any{"password": "q"})
	step("kv2_patch", patched.VersionMetadata.Version, err)
	first, err := kv2.GetVersion(ctx, "hashicorp/one", 1)
	step("kv2_get_version", first.Data, err)
	metadata, err := kv2.GetMetadata(ctx, "hashicorp/one")
	step("kv2_metadata", metadata.CurrentVersion, err)
	step("kv2_delete", nil, kv2.Delete(ctx, "hashicorp/one"))
	step("kv2_undelete", nil, kv2.Undelete(ctx, "hashicorp/one", []int{2}))
	step("kv2_destroy", nil, kv2.Destroy(ctx, "hashicorp/one", []int{1}))
	listed, err := values(logical.List("secret/metadata/hashicorp"))
	step("kv2_list", listed, err)

	step("kv1_put", nil, kv1.Put(ctx, "hashicorp", map[string]any{"k": "v"}))
	plain, err := kv1.Get(ctx, "hashicorp")
	step("kv1_get", plain.Data, err)

	text := base64.StdEncoding.EncodeToString([]byte("text"))
	sealed, err := logical.Write("transit/encrypt/hashicorp", map[string]any{"plaintext": text})
	step("transit_encrypt", nil, err)
	opened, err := values(logical.Write("transit/decrypt/hashicorp", map[string]any{"ciphertext": sealed.Data["ciphertext"]}))
	step("transit_decrypt", opened, err)

	self, err := values(client.Auth().Token().LookupSelf())
	step("lookup_self", self != nil, err)
	_, err = values(logical.Read("sys/policies/acl/default"))
	step("refused", nil, err)
}
