"""Networks: named, built, given weights and images that suit them."""
