"""Register a signing key, sign with it, and take it back; AGENTZERO_SERVER, AGENTZERO_API_KEY."""

import asyncio
import base64

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agentzero_client import AsyncClient, AuthenticationError, Signer

KEYS = "/api/v1/signing-keys"


async def main() -> None:
    """Ed25519 first, then HMAC."""
    private = Ed25519PrivateKey.generate()
    public = base64.b64encode(private.public_key().public_bytes_raw()).decode()
    async with AsyncClient() as client:
        registration = {"name": "laptop", "algorithm": "ed25519", "public_key": public}
        laptop = (await client.http.request("POST", KEYS, body=registration)).body
        try:
            await client.http.request("DELETE", f"{KEYS}/{laptop['signing_key_id']}")
        except AuthenticationError as error:
            print("unsigned:", error.code)

    signer = Signer.ed25519(laptop["signing_key_id"], private)
    async with AsyncClient(signer=signer) as client:
        registration = {"name": "machine", "algorithm": "hmac-sha256"}
        machine = (await client.http.request("POST", KEYS, body=registration)).body
        print("ed25519: registered", machine["name"])

    signer = Signer.hmac_sha256(machine["signing_key_id"], machine["secret"])
    async with AsyncClient(signer=signer) as client:
        for key in (laptop, machine):
            await client.http.request("DELETE", f"{KEYS}/{key['signing_key_id']}")
            print("hmac-sha256: revoked", key["name"])


asyncio.run(main())
