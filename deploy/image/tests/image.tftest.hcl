mock_provider "aws" {
  source = "../terraform/tests/mocks"
}

variables {
  vpc_id          = "vpc-0aaaaaaaaaaaaaaaa"
  subnet_id       = "subnet-0aaaaaaaaaaaaaaaa"
  release_bucket  = "releases"
  release_key     = "transcriptd/0.1.0.tar.gz"
  release_sha256  = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
  release_version = "0.1.0"
  models_from     = "s3://models/transcriptd"
  settings        = { TRANSCRIPTD_MODEL = "large-v3" }
}

run "image" {
  command = plan

  assert {
    condition = alltrue([for line in [
      "aws s3 cp --only-show-errors 's3://releases/transcriptd/0.1.0.tar.gz' \"$work/release.tar.gz\"",
      "TRANSCRIPTD_MODEL=\"large-v3\"",
      "bash \"$installer\" --no-gpu --models 's3://models/transcriptd'",
    ] : strcontains(aws_imagebuilder_component.install.data, line)])
    error_message = "The component installs the release and the models that the settings need."
  }

  assert {
    condition     = yamldecode(aws_imagebuilder_component.install.data).phases[1].name == "validate"
    error_message = "The component is YAML with a phase that validates the image."
  }

  assert {
    condition     = one(one(aws_imagebuilder_image_recipe.this.block_device_mapping).ebs).encrypted == "true" && one(aws_imagebuilder_infrastructure_configuration.this.instance_metadata_options).http_tokens == "required"
    error_message = "The image is encrypted, and IMDSv1 is off."
  }

  assert {
    condition     = one(data.aws_iam_policy_document.build.statement).resources == toset(["arn:aws:s3:::releases/transcriptd/0.1.0.tar.gz", "arn:aws:s3:::models/transcriptd/*"])
    error_message = "The build reads the release and the mirror."
  }

  assert {
    condition     = length(aws_imagebuilder_image_pipeline.this.schedule) == 0
    error_message = "Nothing is built without a schedule."
  }
}

run "scheduled" {
  command = plan

  variables {
    schedule = "cron(0 3 ? * mon *)"
  }

  assert {
    condition     = one(aws_imagebuilder_image_pipeline.this.schedule).pipeline_execution_start_condition == "EXPRESSION_MATCH_AND_DEPENDENCY_UPDATES_AVAILABLE"
    error_message = "A scheduled build needs a change."
  }
}

run "secret_in_the_image" {
  command = plan

  variables {
    settings = { HF_TOKEN = "hf_x" }
  }

  expect_failures = [var.settings]
}

run "unversioned" {
  command = plan

  variables {
    release_version = "latest"
  }

  expect_failures = [var.release_version]
}

run "models_from_nowhere" {
  command = plan

  variables {
    models_from = "none"
  }

  expect_failures = [var.models_from]
}
