"""What people download becomes folders of cases: writing, splitting and checking them."""
