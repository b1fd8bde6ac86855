"""Tide tables for harbours."""
