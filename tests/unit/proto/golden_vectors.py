#!/usr/bin/env python3
"""Writes golden_vectors.json: the bytes of proto/FORMAT.md computed apart from our C++ code.

Encodings, SHA-256 and HMAC are Python's own; XXH3 with a secret comes from the xxHash library through ctypes, and its
plain XXH3-64 and XXH3-128 are compared with PyPI's xxhash where that is installed.

    python3 tests/unit/proto/golden_vectors.py > tests/unit/proto/golden_vectors.json
"""
import ctypes
import hashlib
import hmac
import json
import struct
import sys

MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15
xx = ctypes.CDLL("libxxhash.so.0")


class Hash128(ctypes.Structure):
    _fields_ = [("low", ctypes.c_uint64), ("high", ctypes.c_uint64)]


xx.XXH3_64bits.restype = ctypes.c_uint64
xx.XXH3_64bits.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
xx.XXH3_128bits.restype = Hash128
xx.XXH3_128bits.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
xx.XXH3_128bits_withSecret.restype = Hash128
xx.XXH3_128bits_withSecret.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t]
xx.XXH3_generateSecret.restype = ctypes.c_int
xx.XXH3_generateSecret.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t]

u8 = lambda value: struct.pack("<B", value)
u32 = lambda value: struct.pack("<I", value)
u64 = lambda value: struct.pack("<Q", value)
text = lambda value: u32(len(value.encode())) + value.encode()


def xxh3_64(data):
    return xx.XXH3_64bits(data, len(data))


def compare_with_pypi():
    try:
        import xxhash
    except ImportError:
        return print("PyPI's xxhash is not installed: plain XXH3 not compared", file=sys.stderr)
    for size in (0, 1, 8, 16, 17, 80, 128, 129, 240, 241, 4096, 100000):
        data = bytes(i * 7 & 255 for i in range(size))
        plain = xx.XXH3_128bits(data, size)
        assert xxhash.xxh3_64_intdigest(data) == xxh3_64(data)
        assert xxhash.xxh3_128_intdigest(data) == plain.high << 64 | plain.low


# ---- Namespaces ----
SPEC = dict(model="meta-llama/Llama-3.1-8B", revision="0e9e39f", weights_digest="", kv_dtype="bf16", scale_scheme="",
            layout="nhd", instruction_set="", block_tokens=16, hash_scheme=1,
            parts=[dict(id=0, group=1, window_tokens=0, layer_first=0, layer_count=32, head_first=0, head_count=8,
                        block_bytes=2097152)])
HYBRID = dict(SPEC, model="google/gemma-3-27b", revision="", weights_digest="ab12", kv_dtype="fp8_e4m3",
              scale_scheme="per_token_head", layout="hnd", instruction_set="avx512", block_tokens=32, hash_scheme=2,
              parts=[dict(id=0, group=1, window_tokens=0, layer_first=0, layer_count=10, head_first=0, head_count=16,
                          block_bytes=1310720),
                     dict(id=5, group=2, window_tokens=1024, layer_first=10, layer_count=52, head_first=8, head_count=8,
                          block_bytes=3407872)])


def encode_spec(spec, trust_group):
    out = text("stemcache/v1/namespace") + text(trust_group)
    for field in ("model", "revision", "weights_digest", "kv_dtype", "scale_scheme", "layout", "instruction_set"):
        out += text(spec[field])
    out += u32(spec["block_tokens"]) + u32(spec["hash_scheme"]) + u32(len(spec["parts"]))
    for part in spec["parts"]:
        for field in ("id", "group", "window_tokens", "layer_first", "layer_count", "head_first", "head_count"):
            out += u32(part[field])
        out += u64(part["block_bytes"])
    if "spill_encoding" in spec:
        out += text("spill_encoding") + text(spec["spill_encoding"])
    return out


def fingerprint(spec, trust_group):
    return hashlib.sha256(encode_spec(spec, trust_group)).digest()[:16]


def root(secret, trust_group, space):
    return hmac.new(secret, text(trust_group) + space, hashlib.sha256).digest()


def namespaces():
    secret = bytes(range(32))
    for name, spec, group in (("one part", SPEC, "tenant-a"), ("another trust group", SPEC, "shared:public"),
                              ("two parts", HYBRID, "tenant-a"),
                              ("int8 on SSD", dict(SPEC, spill_encoding="int8"), "tenant-a")):
        space = fingerprint(spec, group)
        yield dict(name=name, spec=spec, trust_group=group, encoding_bytes=len(encode_spec(spec, group)),
                   fingerprint=space.hex(), cluster_secret=secret.hex(), root=root(secret, group, space).hex())


# ---- Chains ----
def hasher(scheme, root_bytes):
    if scheme == "sha256":
        return lambda data: hashlib.sha256(data).digest()[:16]
    secret = ctypes.create_string_buffer(192)
    assert xx.XXH3_generateSecret(secret, 192, root_bytes, len(root_bytes)) == 0

    def keyed(data):
        result = xx.XXH3_128bits_withSecret(data, len(data), secret, 192)
        return u64(result.low) + u64(result.high)

    return keyed


def encode_extra(extra):
    body = bytes.fromhex(extra["bytes"])
    if extra["tag"] == 2:
        body = u32(extra["offset_tokens"]) + body
    return u8(extra["tag"]) + u32(len(body)) + body


def chain(scheme, root_bytes, salt, tokens, block_tokens, extras):
    digest = hasher(scheme, root_bytes)
    key = digest(root_bytes + salt)
    keys = [key]
    for block in range(len(tokens) // block_tokens):
        data = key + b"".join(u32(token) for token in tokens[block * block_tokens:(block + 1) * block_tokens])
        key = digest(data + b"".join(encode_extra(extra) for extra in extras if extra["block"] == block))
        keys.append(key)
    return keys


def external(root_bytes, salt, hashes):
    digest = hasher("xxh3", root_bytes)
    origin = digest(root_bytes + salt)
    return [origin] + [digest(b"\x45" + u32(len(each)) + each + origin) for each in hashes]


def chains():
    root_bytes = bytes.fromhex("00112233445566778899aabbccddeeff0123456789abcdeffedcba9876543210")
    tokens = [(i * 2654435761) & 0xFFFFFFFF for i in range(100)]
    extras = [dict(block=0, tag=1, offset_tokens=0, bytes=b"adapter-7".hex()),
              dict(block=1, tag=2, offset_tokens=3, bytes=hashlib.sha256(b"image").digest().hex()),
              dict(block=1, tag=2, offset_tokens=9, bytes=""),
              dict(block=2, tag=3, offset_tokens=0, bytes="0102030405060708"),
              dict(block=4, tag=4, offset_tokens=0, bytes="ff"),
              dict(block=6, tag=4, offset_tokens=0, bytes="ee")]  # of the tail: no full block
    for scheme in ("xxh3", "sha256"):
        for name, salt, block_tokens, used in (("plain", "", 16, []), ("salt", "73616c74", 16, []),
                                               ("extras", "", 16, extras), ("one token a block", "", 1, []),
                                               ("over 240 bytes a block", "73616c74", 64, extras[:1])):
            keys = chain(scheme, root_bytes, bytes.fromhex(salt), tokens, block_tokens, used)
            yield dict(name=name, scheme=scheme, root=root_bytes.hex(), salt=salt, tokens=tokens,
                       block_tokens=block_tokens, extras=used, hashes=[], keys=[key.hex() for key in keys])
    hashes = [u64(0x1122334455667788), hashlib.sha256(b"block 1").digest(), b"\x00"]
    for name, salt in (("plain", ""), ("salt", "73616c74")):
        keys = external(root_bytes, bytes.fromhex(salt), hashes)
        yield dict(name=name, scheme="external", root=root_bytes.hex(), salt=salt, tokens=[], block_tokens=16,
                   extras=[], hashes=[each.hex() for each in hashes], keys=[key.hex() for key in keys])


# ---- Probes ----
def probes():
    secret = bytes(range(32))
    tokens = [(i * 2654435761) & 0xFFFFFFFF for i in range(16)]
    for group, salt in (("tenant-a", ""), ("tenant-a", "73616c74"), ("shared:public", "")):
        key = hmac.new(secret, b"stemcache/v1 probe" + group.encode(), hashlib.sha256).digest()
        message = b"".join(u32(token) for token in tokens) + bytes.fromhex(salt)
        yield dict(trust_group=group, cluster_secret=secret.hex(), probe_key=key.hex(), tokens=tokens, salt=salt,
                   probe=hmac.new(key, message, hashlib.sha256).digest()[:16].hex())


# ---- Part keys, index fingerprints, digests ----
def names():
    key = bytes(range(16))
    space = bytes(range(16, 32))
    low, high = struct.unpack("<QQ", key)
    space_low, space_high = struct.unpack("<QQ", space)
    for part in (0, 1, 63):
        part_low = low ^ (part * GOLDEN & MASK)
        mixed = high ^ space_high
        index = part_low ^ space_low ^ ((mixed << 29 | mixed >> 35) & MASK)
        yield dict(key=key.hex(), space=space.hex(), part=part, part_key=(u64(part_low) + u64(high)).hex(),
                   index_fingerprint=index)


def digests():
    key, space = bytes(range(16)), bytes(range(16, 32))
    for length in (0, 1, 4095, 4096, 4097, 10000, 65536):
        payload = bytes((i * 131 + (i >> 8)) & 255 for i in range(length))
        chunks = [xxh3_64(payload[at:at + 4096]) for at in range(0, length, 4096)]
        digest = xxh3_64(space + key + u64(length) + b"".join(u64(chunk) for chunk in chunks))
        yield dict(key=key.hex(), space=space.hex(), length=length, chunk_hashes=chunks, digest=digest)


compare_with_pypi()
sections = dict(namespaces=namespaces(), chains=chains(), probes=probes(), names=names(), digests=digests())
lines = [f'"{title}": [\n' + ",\n".join(json.dumps(entry) for entry in entries) + "\n]" for title, entries in sections.items()]
print("{\n" + ",\n".join(lines) + "\n}")
