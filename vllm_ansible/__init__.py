"""Turns bare Linux hosts into vLLM servers: schema, plan, provisioning and the lab."""
